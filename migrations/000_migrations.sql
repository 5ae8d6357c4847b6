-- Bootstrap: the record of what has been applied.
--
-- This file runs before every other one and is not itself recorded. All times in celers are UTC
-- (UTC_TIMESTAMP(6)), whatever the time zone of the session or the server.

-- One row for each migration that ran to its last statement.
CREATE TABLE IF NOT EXISTS celers_migrations (
    version    VARCHAR(20)  NOT NULL,  -- number of the file, for example 001
    name       VARCHAR(255) NOT NULL,  -- rest of the file's name, for example init
    checksum   CHAR(64)     NOT NULL,  -- SHA-256 of the file, newlines as \n, in lower case hexadecimal
    applied_at DATETIME(6)  NOT NULL,  -- when the last statement had run
    PRIMARY KEY (version)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
