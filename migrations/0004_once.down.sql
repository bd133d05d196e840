DROP TABLE db_stack_once;
