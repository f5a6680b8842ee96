-- A mount may be an ordinary user's, may be written to, and may be made again when what serves it dies.
ALTER TABLE mount ADD COLUMN uid INTEGER NOT NULL DEFAULT 0;
ALTER TABLE mount ADD COLUMN gid INTEGER NOT NULL DEFAULT 0;
ALTER TABLE mount ADD COLUMN writable INTEGER NOT NULL DEFAULT 0;
ALTER TABLE mount ADD COLUMN restart INTEGER NOT NULL DEFAULT 0;
