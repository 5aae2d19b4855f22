# shellcheck shell=bash
# Part of tests/run: a throwaway PgBouncer in front of the throwaway PostgreSQL, which
# pools transactions under one name of a database and sessions under another.
# shellcheck disable=SC2034,SC2154 # its variables are shared with tests/run and the other parts

# Sets pgbouncer_program. PATH has the folder of Debian's by now.
find_pgbouncer() {
  pgbouncer_program=$(type -P pgbouncer) || return 1
  as_server "$postgres_user" /
  [[ $(timeout 10 "${as[@]}" "$pgbouncer_program" --version 2>/dev/null) == 'PgBouncer '* ]]
}

# pgbouncer_ini PORT-OF-POSTGRESQL
pgbouncer_ini() {
  cat <<END
[databases]
transactions = host=127.0.0.1 port=$1 dbname=postgres user=saga pool_mode=transaction
sessions = host=127.0.0.1 port=$1 dbname=postgres user=saga pool_mode=session
[pgbouncer]
listen_addr = 127.0.0.1
unix_socket_dir =
auth_type = scram-sha-256
auth_file = $work/pgbouncer/users
ignore_startup_parameters = extra_float_digits
default_pool_size = 20
END
}

# Each start may have another port, which only its file can say.
launch_pgbouncer() {
  { pgbouncer_ini "$postgres_port"; echo "listen_port = $port"; } |
    write_secret "$work/pgbouncer/pgbouncer.ini" "$postgres_user"
  setsid "${as[@]}" "$pgbouncer_program" "$work/pgbouncer/pgbouncer.ini" &
  pgbouncer_pid=$!
}

ask_pgbouncer() {
  clean_environment /
  timeout 10 "${clean[@]}" PGPASSWORD="$pgbouncer_password" PGCONNECT_TIMEOUT=5 \
    "$postgres_client" -X -A -t -q -w -h 127.0.0.1 -p "$port" -U saga -d "$1" -c 'SELECT 1'
}

probe_pgbouncer() {
  ask_pgbouncer transactions >/dev/null && ask_pgbouncer sessions >/dev/null
}

# After start_postgres.
start_pgbouncer() {
  local port postgres_port pgbouncer_password url folder=$work/pgbouncer
  local -a as clean
  if ! find_pgbouncer; then
    install_package pgbouncer pgbouncer
    find_pgbouncer || fail "no PgBouncer (pgbouncer) found"
  fi
  make_server_folder "$folder" "$postgres_user"
  as_server "$postgres_user" "$folder"

  url=${SAGASTORE_TEST_POSTGRES_URL#postgres://saga:}
  pgbouncer_password=${url%%@*}
  url=${url#*@127.0.0.1:}
  postgres_port=${url%%/*}
  write_secret "$folder/users" "$postgres_user" <<<"\"saga\" \"$pgbouncer_password\""
  start_on_free_port pgbouncer
  url=postgres://saga:$pgbouncer_password@127.0.0.1:$port
  export SAGASTORE_TEST_PGBOUNCER_TRANSACTION_URL=$url/transactions
  export SAGASTORE_TEST_PGBOUNCER_SESSION_URL=$url/sessions
}

stop_pgbouncer() {
  # Before PostgreSQL. SIGTERM is an order to stop at once.
  stop_server "$pgbouncer_pid" kill -TERM "$pgbouncer_pid"
}
