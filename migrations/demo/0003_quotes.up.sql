CREATE TABLE quotes (
    symbol text NOT NULL,
    at timestamptz NOT NULL,
    bid bigint NOT NULL CHECK (bid > 0),
    ask bigint NOT NULL CHECK (ask > bid),
    PRIMARY KEY (symbol, at)
);
