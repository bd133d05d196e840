CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Made by the client. Not unique on purpose: an order that is booked twice has to show, not to fail.
    client_id uuid NOT NULL,
    account_id bigint NOT NULL REFERENCES accounts (id),
    symbol text NOT NULL,
    quantity bigint NOT NULL CHECK (quantity > 0),
    price bigint NOT NULL CHECK (price > 0),
    placed_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX orders_client_id ON orders (client_id);
CREATE INDEX orders_account_id ON orders (account_id);
