CREATE TABLE passing_volume (               -- made for a container that is not there yet, or to go with one that was removed
    volume      TEXT PRIMARY KEY REFERENCES volume(name) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
