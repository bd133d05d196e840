DROP VIEW slow_queries_new_since_yesterday;
DROP VIEW slow_queries_worst_today;
DROP FUNCTION slow_queries_turn(interval);
DROP TABLE slow_queries;
