-- The one truth for images, layers and their references, containers, volumes, mounts and intents.
-- A layer's row appears after its bytes are durable, and goes before they are thrown away.
CREATE TABLE layer (
    id          TEXT PRIMARY KEY,           -- diffID, sha256:<hex>
    data_size   INTEGER NOT NULL,           -- bytes of the uncompressed tar
    index_size  INTEGER NOT NULL,           -- bytes of its index
    file_bytes  INTEGER NOT NULL,           -- bytes of its regular files, what Docker calls the layer's size
    entries     INTEGER NOT NULL,
    created     INTEGER NOT NULL            -- nanoseconds since the epoch
) STRICT, WITHOUT ROWID;

CREATE TABLE image (
    id          TEXT PRIMARY KEY,           -- digest of the config
    config      BLOB NOT NULL,              -- the config, byte for byte
    size        INTEGER NOT NULL,           -- sum of its layers' file_bytes
    created     INTEGER NOT NULL,           -- when it came into this store, nanoseconds since the epoch
    parent      TEXT                        -- the image it was built on here, if any
) STRICT, WITHOUT ROWID;

CREATE TABLE image_layer (
    image       TEXT NOT NULL REFERENCES image(id) ON DELETE CASCADE,
    position    INTEGER NOT NULL,           -- 0 is the bottom
    layer       TEXT NOT NULL REFERENCES layer(id),
    PRIMARY KEY (image, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_layer_by_layer ON image_layer(layer);

CREATE TABLE tag (
    repository  TEXT NOT NULL,              -- canonical: docker.io/library/busybox
    tag         TEXT NOT NULL,
    image       TEXT NOT NULL REFERENCES image(id) ON DELETE CASCADE,
    PRIMARY KEY (repository, tag)
) STRICT, WITHOUT ROWID;
CREATE INDEX tag_by_image ON tag(image);

CREATE TABLE repo_digest (                  -- under which manifest digest a registry knows an image
    repository  TEXT NOT NULL,
    digest      TEXT NOT NULL,
    image       TEXT NOT NULL REFERENCES image(id) ON DELETE CASCADE,
    manifest    BLOB,                       -- the manifest, byte for byte, where it was pulled
    PRIMARY KEY (repository, digest, image)
) STRICT, WITHOUT ROWID;
CREATE INDEX repo_digest_by_image ON repo_digest(image);

CREATE TABLE container (
    id          TEXT PRIMARY KEY,
    name        TEXT NOT NULL UNIQUE,
    image       TEXT REFERENCES image(id),  -- a container keeps its image from being removed
    image_name  TEXT NOT NULL,              -- as it was given
    created     INTEGER NOT NULL,
    spec        TEXT NOT NULL,              -- JSON: config and host config as created
    state       TEXT NOT NULL               -- JSON: status, pid, exit code, times
) STRICT, WITHOUT ROWID;
CREATE INDEX container_by_image ON container(image);

CREATE TABLE volume (
    name        TEXT PRIMARY KEY,
    driver      TEXT NOT NULL,
    options     TEXT NOT NULL,              -- JSON object or null
    labels      TEXT NOT NULL,              -- JSON object or null
    anonymous   INTEGER NOT NULL,
    created     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE volume_use (
    volume      TEXT NOT NULL REFERENCES volume(name),
    container   TEXT NOT NULL,              -- noted before the container's own row, so no reference
    PRIMARY KEY (volume, container)
) STRICT, WITHOUT ROWID;
CREATE INDEX volume_use_by_container ON volume_use(container);

CREATE TABLE mount (                        -- trees that a person asked to see on the host
    id          TEXT PRIMARY KEY,
    kind        TEXT NOT NULL,              -- image | container | volume
    object      TEXT NOT NULL,              -- the image's id
    name        TEXT NOT NULL,              -- as it was given
    target      TEXT NOT NULL UNIQUE,
    made_target INTEGER NOT NULL,           -- we made the folder, so we take it away
    driver      TEXT NOT NULL,
    state       TEXT NOT NULL,              -- intent | mounted
    created     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
