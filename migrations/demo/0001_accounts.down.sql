DROP TABLE positions;
DROP TABLE accounts;
