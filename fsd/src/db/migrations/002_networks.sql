CREATE TABLE network (
    id          TEXT PRIMARY KEY,           -- 64 hex digits
    name        TEXT NOT NULL UNIQUE,
    created     INTEGER NOT NULL,
    spec        TEXT NOT NULL               -- JSON
) STRICT, WITHOUT ROWID;

CREATE TABLE endpoint (                     -- which container is to be in which network, and where it is
    container   TEXT NOT NULL,              -- noted before the container's own row, so no reference
    network     TEXT NOT NULL,              -- its id; or the name that was asked for and is not there yet
    name        TEXT NOT NULL,              -- the network's name when it was asked for
    position    INTEGER NOT NULL,           -- the order in which they were asked for
    settings    TEXT NOT NULL,              -- JSON: what was asked for
    lease       TEXT,                       -- JSON: what it has while it runs
    ipv4        TEXT,                       -- of the lease, here so that no address is given twice
    ipv6        TEXT,
    PRIMARY KEY (container, network)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX endpoint_ipv4 ON endpoint(network, ipv4);
CREATE UNIQUE INDEX endpoint_ipv6 ON endpoint(network, ipv6);

CREATE TABLE published (                    -- ports of the host that lead to containers that run
    container       TEXT NOT NULL,
    protocol        TEXT NOT NULL,          -- tcp | udp | sctp
    host            TEXT NOT NULL,          -- the host's address
    host_port       INTEGER NOT NULL,
    container_port  INTEGER NOT NULL,
    PRIMARY KEY (protocol, host, host_port)
) STRICT, WITHOUT ROWID;
CREATE INDEX published_by_container ON published(container);

-- Containers of before had a loopback interface where they have the default bridge now.
INSERT INTO endpoint (container, network, name, position, settings)
SELECT id, 'bridge', 'bridge', 0, '{}' FROM container
WHERE coalesce(json_extract(spec, '$.host_config.NetworkMode'), '') IN ('', 'default', 'bridge');
