//! The functions of `pg_catalog` by what they may do, sorted for binary search.
//!
//! Taken from `pg_proc` of PostgreSQL 15 (only what SQL can call by name), with the additions of 16 to 18 and the
//! functions that are SQL syntax. A name is stable only if all of its overloads are.

/// The answer follows from the arguments alone, or from settings that a deployment fixes.
#[rustfmt::skip]
pub(super) static PURE: [&str; 470] = [
    "abbrev", "abs", "acldefault", "aclexplode", "acos", "acosd", "acosh", "all", "any", "any_value", "area",
    "array", "array_agg", "array_append", "array_cat", "array_dims", "array_fill", "array_length", "array_lower",
    "array_ndims", "array_position", "array_positions", "array_prepend", "array_remove", "array_replace",
    "array_reverse", "array_sort", "array_to_json", "array_to_string", "array_to_tsvector", "array_upper",
    "arraycontained", "arraycontains", "arrayoverlap", "ascii", "asin", "asind", "asinh", "atan", "atan2", "atan2d",
    "atand", "atanh", "avg", "bit", "bit_and", "bit_count", "bit_length", "bit_or", "bit_xor", "bool", "bool_and",
    "bool_or", "bound_box", "box", "bpchar", "broadcast", "btrim", "cardinality", "casefold", "cashlarger",
    "cashsmaller", "cbrt", "ceil", "ceiling", "center", "char", "char_length", "character_length", "chr", "cidr",
    "circle", "coalesce", "concat", "concat_ws", "convert", "convert_from", "convert_to", "corr", "cos", "cosd",
    "cosh", "cot", "cotd", "count", "covar_pop", "covar_samp", "crc32", "crc32c", "cume_dist", "date", "date_add",
    "date_bin", "date_part", "date_subtract", "date_trunc", "datemultirange", "daterange", "decode", "degrees",
    "dense_rank", "diagonal", "diameter", "div", "encode", "enum_first", "enum_last", "enum_range", "erf", "erfc",
    "every", "exp", "extract", "factorial", "family", "first_value", "float4", "float8", "floor", "format", "gamma",
    "gcd", "generate_series", "generate_subscripts", "get_bit", "get_byte", "greatest", "grouping", "hash_array",
    "hash_record", "hashbpchar", "hashtext", "hashtextextended", "height", "host", "hostmask", "inet_merge",
    "inet_same_family", "initcap", "int2", "int2vector", "int4", "int4multirange", "int4range", "int8",
    "int8multirange", "int8range", "integer_pl_date", "interval", "is_normalized", "isclosed", "isempty",
    "isfinite", "ishorizontal", "isopen", "isparallel", "isperp", "isvertical", "json", "json_agg",
    "json_agg_strict", "json_array", "json_array_elements", "json_array_elements_text", "json_array_length",
    "json_arrayagg", "json_build_array", "json_build_object", "json_each", "json_each_text", "json_exists",
    "json_extract_path", "json_extract_path_text", "json_object", "json_object_agg", "json_object_agg_strict",
    "json_object_agg_unique", "json_object_agg_unique_strict", "json_object_keys", "json_objectagg",
    "json_populate_record", "json_populate_recordset", "json_query", "json_scalar", "json_serialize",
    "json_strip_nulls", "json_table", "json_to_record", "json_to_recordset", "json_to_tsvector", "json_typeof",
    "json_value", "jsonb_agg", "jsonb_agg_strict", "jsonb_array_elements", "jsonb_array_elements_text",
    "jsonb_array_length", "jsonb_build_array", "jsonb_build_object", "jsonb_concat", "jsonb_contains",
    "jsonb_delete", "jsonb_delete_path", "jsonb_each", "jsonb_each_text", "jsonb_exists", "jsonb_exists_all",
    "jsonb_exists_any", "jsonb_extract_path", "jsonb_extract_path_text", "jsonb_insert", "jsonb_object",
    "jsonb_object_agg", "jsonb_object_agg_strict", "jsonb_object_agg_unique", "jsonb_object_agg_unique_strict",
    "jsonb_object_keys", "jsonb_path_exists", "jsonb_path_exists_tz", "jsonb_path_match", "jsonb_path_match_tz",
    "jsonb_path_query", "jsonb_path_query_array", "jsonb_path_query_array_tz", "jsonb_path_query_first",
    "jsonb_path_query_first_tz", "jsonb_path_query_tz", "jsonb_populate_record", "jsonb_populate_record_valid",
    "jsonb_populate_recordset", "jsonb_pretty", "jsonb_set", "jsonb_set_lax", "jsonb_strip_nulls",
    "jsonb_to_record", "jsonb_to_recordset", "jsonb_to_tsvector", "jsonb_typeof", "justify_days", "justify_hours",
    "justify_interval", "lag", "last_value", "lcm", "lead", "least", "left", "length", "lgamma", "line", "ln",
    "log", "log10", "lower", "lower_inc", "lower_inf", "lpad", "lseg", "ltrim", "macaddr", "macaddr8", "make_date",
    "make_interval", "make_time", "make_timestamp", "make_timestamptz", "masklen", "max", "md5", "merge_action",
    "min", "min_scale", "mod", "mode", "money", "multirange", "name", "netmask", "network", "normalize", "npoints",
    "nth_value", "ntile", "nullif", "num_nonnulls", "num_nulls", "numeric", "nummultirange", "numnode", "numrange",
    "octet_length", "oid", "overlaps", "overlay", "parse_ident", "path", "pclose", "percent_rank",
    "percentile_cont", "percentile_disc", "pg_column_compression", "pg_column_size", "pg_input_is_valid", "pg_lsn",
    "pg_partition_root", "pg_size_bytes", "pg_size_pretty", "pg_snapshot_xip", "pg_snapshot_xmax",
    "pg_snapshot_xmin", "pg_typeof", "pg_visible_in_snapshot", "pg_wal_lsn_diff", "pg_walfile_name",
    "pg_walfile_name_offset", "phraseto_tsquery", "pi", "plainto_tsquery", "point", "polygon", "popen", "position",
    "pow", "power", "quote_ident", "quote_literal", "quote_nullable", "radians", "radius", "range_agg",
    "range_intersect_agg", "range_merge", "rank", "regexp_count", "regexp_instr", "regexp_like", "regexp_match",
    "regexp_matches", "regexp_replace", "regexp_split_to_array", "regexp_split_to_table", "regexp_substr",
    "regr_avgx", "regr_avgy", "regr_count", "regr_intercept", "regr_r2", "regr_slope", "regr_sxx", "regr_sxy",
    "regr_syy", "repeat", "replace", "reverse", "right", "round", "row", "row_number", "row_to_json", "rpad",
    "rtrim", "scale", "set_bit", "set_byte", "set_masklen", "setweight", "sha224", "sha256", "sha384", "sha512",
    "sign", "sin", "sind", "sinh", "slope", "some", "split_part", "sqrt", "starts_with", "stddev", "stddev_pop",
    "stddev_samp", "string_agg", "string_to_array", "string_to_table", "strip", "strpos", "substr", "substring",
    "sum", "tan", "tand", "tanh", "text", "time", "timestamp", "timestamptz", "timetz", "timezone", "to_ascii",
    "to_bin", "to_char", "to_date", "to_hex", "to_json", "to_jsonb", "to_number", "to_oct", "to_timestamp",
    "to_tsquery", "to_tsvector", "translate", "trim", "trim_array", "trim_scale", "trunc", "ts_debug", "ts_delete",
    "ts_filter", "ts_headline", "ts_lexize", "ts_parse", "ts_rank", "ts_rank_cd", "ts_token_type", "tsmultirange",
    "tsquery_phrase", "tsrange", "tstzmultirange", "tstzrange", "tsvector_to_array", "txid_snapshot_xip",
    "txid_snapshot_xmax", "txid_snapshot_xmin", "txid_visible_in_snapshot", "unicode_assigned", "unicode_version",
    "unistr", "unnest", "upper", "upper_inc", "upper_inf", "uuid_extract_timestamp", "uuid_extract_version",
    "var_pop", "var_samp", "varbit", "varchar", "variance", "websearch_to_tsquery", "width", "width_bucket", "xml",
    "xml_is_well_formed", "xml_is_well_formed_content", "xml_is_well_formed_document", "xmlagg", "xmlcomment",
    "xmlconcat", "xmlconcat2", "xmlelement", "xmlexists", "xmlforest", "xmlparse", "xmlpi", "xmlroot",
    "xmlserialize", "xmltext", "xpath", "xpath_exists",
];

/// The answer follows the clock, and is stable within a transaction.
#[rustfmt::skip]
pub(super) static TIME: [&str; 10] = [
    "age", "current_date", "current_time", "current_timestamp", "localtime", "localtimestamp", "mxid_age", "now",
    "statement_timestamp", "transaction_timestamp",
];

/// The answer depends on the user, the session, the node or the catalog.
#[rustfmt::skip]
pub(super) static SESSION: [&str; 133] = [
    "col_description", "current_catalog", "current_database", "current_role", "current_schema", "current_schemas",
    "current_setting", "current_user", "format_type", "get_current_ts_config", "getdatabaseencoding",
    "getpgusername", "has_any_column_privilege", "has_column_privilege", "has_database_privilege",
    "has_foreign_data_wrapper_privilege", "has_function_privilege", "has_language_privilege",
    "has_largeobject_privilege", "has_parameter_privilege", "has_schema_privilege", "has_sequence_privilege",
    "has_server_privilege", "has_table_privilege", "has_tablespace_privilege", "has_type_privilege",
    "icu_unicode_version", "inet_client_addr", "inet_client_port", "inet_server_addr", "inet_server_port",
    "obj_description", "oidvectortypes", "pg_available_extension_versions", "pg_available_extensions",
    "pg_available_wal_summaries", "pg_backend_pid", "pg_basetype", "pg_char_to_encoding", "pg_client_encoding",
    "pg_collation_for", "pg_collation_is_visible", "pg_column_is_updatable", "pg_conf_load_time", "pg_config",
    "pg_conversion_is_visible", "pg_current_snapshot", "pg_current_xact_id_if_assigned", "pg_cursor",
    "pg_describe_object", "pg_encoding_to_char", "pg_extension_update_paths", "pg_filenode_relation",
    "pg_function_is_visible", "pg_get_acl", "pg_get_catalog_foreign_keys", "pg_get_constraintdef", "pg_get_expr",
    "pg_get_function_arg_default", "pg_get_function_arguments", "pg_get_function_identity_arguments",
    "pg_get_function_result", "pg_get_function_sqlbody", "pg_get_functiondef", "pg_get_indexdef", "pg_get_keywords",
    "pg_get_object_address", "pg_get_partition_constraintdef", "pg_get_partkeydef", "pg_get_publication_tables",
    "pg_get_replica_identity_index", "pg_get_replication_slots", "pg_get_ruledef", "pg_get_serial_sequence",
    "pg_get_statisticsobjdef", "pg_get_statisticsobjdef_columns", "pg_get_statisticsobjdef_expressions",
    "pg_get_triggerdef", "pg_get_userbyid", "pg_get_viewdef", "pg_has_role", "pg_identify_object",
    "pg_identify_object_as_address", "pg_index_column_has_property", "pg_index_has_property",
    "pg_indexam_has_property", "pg_is_other_temp_schema", "pg_listening_channels", "pg_mcv_list_items",
    "pg_my_temp_schema", "pg_opclass_is_visible", "pg_operator_is_visible", "pg_opfamily_is_visible",
    "pg_options_to_table", "pg_postmaster_start_time", "pg_prepared_statement", "pg_relation_filenode",
    "pg_relation_filepath", "pg_relation_is_publishable", "pg_relation_is_updatable", "pg_sequence_parameters",
    "pg_settings_get_flags", "pg_show_all_settings", "pg_statistics_obj_is_visible", "pg_table_is_visible",
    "pg_tablespace_databases", "pg_tablespace_location", "pg_timezone_abbrevs", "pg_timezone_names",
    "pg_trigger_depth", "pg_ts_config_is_visible", "pg_ts_dict_is_visible", "pg_ts_parser_is_visible",
    "pg_ts_template_is_visible", "pg_type_is_visible", "row_security_active", "session_user", "shobj_description",
    "system_user", "to_regclass", "to_regcollation", "to_regnamespace", "to_regoper", "to_regoperator",
    "to_regproc", "to_regprocedure", "to_regrole", "to_regtype", "to_regtypemod", "txid_current_if_assigned",
    "txid_current_snapshot", "user", "version",
];

/// Volatile or with side effects; see also `VOLATILE_PREFIXES`.
#[rustfmt::skip]
pub(super) static VOLATILE: [&str; 73] = [
    "array_sample", "array_shuffle", "bt_index_check", "clock_timestamp", "current_query", "currval",
    "gen_random_uuid", "gin_clean_pending_list", "lastval", "loread", "lowrite", "nextval", "pg_backup_start",
    "pg_backup_stop", "pg_blocking_pids", "pg_cancel_backend", "pg_clear_attribute_stats",
    "pg_clear_relation_stats", "pg_collation_actual_version", "pg_current_xact_id",
    "pg_database_collation_actual_version", "pg_database_size", "pg_export_snapshot",
    "pg_get_backend_memory_contexts", "pg_get_multixact_members", "pg_get_shmem_allocations",
    "pg_get_wal_replay_pause_state", "pg_get_wal_resource_managers", "pg_get_wal_summarizer_state",
    "pg_hba_file_rules", "pg_ident_file_mappings", "pg_indexes_size", "pg_is_in_recovery",
    "pg_is_wal_replay_paused", "pg_jit_available", "pg_lock_status", "pg_notification_queue_usage", "pg_notify",
    "pg_partition_ancestors", "pg_partition_tree", "pg_prepared_xact", "pg_prewarm", "pg_promote",
    "pg_relation_size", "pg_reload_conf", "pg_restore_attribute_stats", "pg_restore_relation_stats",
    "pg_safe_snapshot_blocking_pids", "pg_sequence_last_value", "pg_set_attribute_stats", "pg_set_relation_stats",
    "pg_show_all_file_settings", "pg_show_replication_origin_status", "pg_start_backup", "pg_stop_backup",
    "pg_switch_wal", "pg_table_size", "pg_tablespace_size", "pg_terminate_backend", "pg_total_relation_size",
    "pg_xact_commit_timestamp", "pg_xact_commit_timestamp_origin", "pg_xact_status", "random", "random_normal",
    "set_config", "setseed", "setval", "timeofday", "txid_current", "txid_status", "uuidv4", "uuidv7",
];

/// Families of volatile functions, by the start of their names.
#[rustfmt::skip]
pub(super) static VOLATILE_PREFIXES: [&str; 23] = [
    "brin_", "dblink", "lo_", "pg_advisory_", "pg_control_", "pg_copy_", "pg_create_", "pg_current_", "pg_drop_",
    "pg_import_", "pg_last_", "pg_log_", "pg_logical_", "pg_ls_", "pg_read_", "pg_replication_", "pg_rotate_",
    "pg_sleep", "pg_stat_", "pg_sync_", "pg_try_advisory_", "pg_wal_replay_", "uuid_generate_",
];

/// They run SQL text or read tables that their arguments name.
#[rustfmt::skip]
pub(super) static RUNS_ANYTHING: [&str; 18] = [
    "cursor_to_xml", "cursor_to_xmlschema", "database_to_xml", "database_to_xml_and_xmlschema",
    "database_to_xmlschema", "dblink", "dblink_exec", "query_to_xml", "query_to_xml_and_xmlschema",
    "query_to_xmlschema", "schema_to_xml", "schema_to_xml_and_xmlschema", "schema_to_xmlschema", "table_to_xml",
    "table_to_xml_and_xmlschema", "table_to_xmlschema", "ts_rewrite", "ts_stat",
];

/// The names of the built-in operators.
#[rustfmt::skip]
pub(super) static OPERATORS: [&str; 74] = [
    "!!", "!~", "!~*", "!~~", "!~~*", "#", "##", "#-", "#>", "#>>", "%", "&", "&&", "&<", "&<|", "&>", "*", "*<",
    "*<=", "*<>", "*=", "*>", "*>=", "+", "-", "->", "->>", "-|-", "/", "<", "<->", "<<", "<<=", "<<|", "<=", "<>",
    "<@", "<^", "=", ">", ">=", ">>", ">>=", ">^", "?", "?#", "?&", "?-", "?-|", "?|", "?||", "@", "@-@", "@>",
    "@?", "@@", "@@@", "^", "^@", "|", "|&>", "|/", "|>>", "||", "||/", "~", "~*", "~<=~", "~<~", "~=", "~>=~",
    "~>~", "~~", "~~*",
];

/// They leave a setting, lock, connection or other state in the session.
#[rustfmt::skip]
pub(super) static LEAVES_STATE: [&str; 25] = [
    "dblink_close", "dblink_connect", "dblink_connect_u", "dblink_disconnect", "dblink_exec", "dblink_open",
    "dblink_send_query", "pg_advisory_lock", "pg_advisory_lock_shared", "pg_advisory_unlock",
    "pg_advisory_unlock_all", "pg_advisory_unlock_shared", "pg_backup_start", "pg_backup_stop",
    "pg_copy_logical_replication_slot", "pg_copy_physical_replication_slot", "pg_create_logical_replication_slot",
    "pg_create_physical_replication_slot", "pg_replication_origin_session_reset",
    "pg_replication_origin_session_setup", "pg_start_backup", "pg_stop_backup", "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared", "setseed",
];
