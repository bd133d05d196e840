-- Money is in cents. What an order costs moves from the balance to the reserve: their sum never changes.
CREATE TABLE accounts (
    id bigint PRIMARY KEY,
    owner text NOT NULL,
    balance bigint NOT NULL CHECK (balance >= 0),
    reserved bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0)
);

CREATE TABLE positions (
    account_id bigint NOT NULL REFERENCES accounts (id),
    symbol text NOT NULL,
    quantity bigint NOT NULL,
    PRIMARY KEY (account_id, symbol)
);
