CREATE TABLE link (                         -- who knows whom in the default network (`--link`)
    container   TEXT NOT NULL,              -- who asked for it
    alias       TEXT NOT NULL,              -- what it calls the other
    position    INTEGER NOT NULL,           -- the order in which they were asked for
    linked      TEXT NOT NULL,              -- the other; it may be gone
    last_name   TEXT NOT NULL,              -- of the other, once it is gone
    PRIMARY KEY (container, alias)
) STRICT, WITHOUT ROWID;
CREATE INDEX link_by_linked ON link(linked);
