-- The server behind the pooler.
CREATE TABLE accounts (id int4 PRIMARY KEY, balance int8 NOT NULL);
INSERT INTO accounts SELECT i, 0 FROM generate_series(0, 15) AS i;
CREATE TABLE transfers (id int8 NOT NULL, payer int4 NOT NULL, payee int4 NOT NULL, amount int8 NOT NULL);
CREATE TABLE plain (n int8 NOT NULL);
CREATE TABLE probe (id int4 PRIMARY KEY, n int8 NOT NULL);
INSERT INTO probe SELECT i, 0 FROM generate_series(0, 63) AS i;
