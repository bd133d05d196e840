-- The roles stay: they may own or use things in other databases of the server. DROP ROLE removes them.
DROP FUNCTION grant_if_role(name, text);
