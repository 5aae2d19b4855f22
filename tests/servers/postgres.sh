# shellcheck shell=bash
# Part of tests/run: a throwaway PostgreSQL.
# shellcheck disable=SC2034,SC2154 # its variables are shared with tests/run and the other parts

# A folder counts only if its three programs belong together, can be run by the
# user who will run them, and really are PostgreSQL.
is_postgres_folder() {
  local folder=$1 program version first_version=
  for program in initdb pg_ctl postgres; do
    [[ -x $folder/$program && ! -d $folder/$program ]] || return 1
  done
  for program in initdb pg_ctl postgres; do
    version=$(timeout 10 "${as[@]}" "$folder/$program" --version 2>/dev/null) || return 1
    [[ $version == "$program (PostgreSQL) "* ]] || return 1
    version=${version#"$program "}
    [[ $version == "${first_version:=$version}" ]] || return 1
  done
}

# Sets postgres_folder, postgres_client and postgres_user.
find_postgres() {
  local -a folders newest_first
  IFS=: read -ra folders <<<"$PATH"
  mapfile -t newest_first < <(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV)
  postgres_user=$(server_user postgres)
  as_server "$postgres_user" /
  for postgres_folder in "${folders[@]}" "${newest_first[@]}"; do
    is_postgres_folder "$postgres_folder" || continue
    postgres_client=$postgres_folder/psql
    [[ -x $postgres_client ]] || postgres_client=$(type -P psql) || continue
    return 0
  done
  return 1
}

ask_postgres() {
  clean_environment /
  timeout 10 "${clean[@]}" PGPASSFILE="$work/postgres.password" PGCONNECT_TIMEOUT=5 \
    "$postgres_client" -X -A -t -q -w -h 127.0.0.1 -p "$port" -U saga -d postgres -c "$1"
}

launch_postgres() {
  setsid "${as[@]}" "$postgres_folder/postgres" -D "$work/postgres/data" -p "$port" \
    -c listen_addresses=127.0.0.1 -c unix_socket_directories="$work/postgres" \
    -c max_connections=200 -c ssl=on -c ssl_cert_file="$work/postgres/tls.pem" \
    -c ssl_key_file="$work/postgres/tls.key" &
  postgres_pid=$!
}

# Asks by the very way the tests will take, so only this server can answer.
probe_postgres() {
  postgres_version=$(ask_postgres 'SELECT version()')
}

# make_postgres_data FOLDER PASSWORD METHOD: as the user whom `as` says; clients tell the password by this method.
make_postgres_data() {
  write_secret "$1/new-password" "$postgres_user" <<<"$2"
  # Not to be interrupted: cut short, it leaves shared memory behind. `timeout` also
  # takes it out of reach of a Ctrl-C.
  timeout 600 "${as[@]}" "$postgres_folder/initdb" --no-sync -D "$1/data" -U saga \
    --auth="$3" --pwfile="$1/new-password" --encoding=UTF8 --locale=C.UTF-8 \
    >"$work/initdb.log" 2>&1 || fail_with_log "postgres: initdb failed" "$work/initdb.log"
  rm -f "$1/new-password"
}

# The role saga_tls gets in by TLS alone. The first line that fits counts.
demand_tls_of_postgres() {
  local rules=$work/postgres/data/pg_hba.conf all
  all=$(<"$rules")
  {
    printf 'hostssl   all saga_tls 127.0.0.1/32 scram-sha-256\n'
    printf 'hostnossl all saga_tls 127.0.0.1/32 reject\n%s\n' "$all"
  } | write_secret "$rules" "$postgres_user"
}

start_postgres() {
  local port password folder=$work/postgres
  local -a as clean
  if ! find_postgres; then
    install_package postgresql postgresql
    find_postgres || fail "no PostgreSQL server (initdb, pg_ctl, postgres and psql) found"
  fi
  make_server_folder "$folder" "$postgres_user"
  as_server "$postgres_user" "$folder"

  password=$(random_password)
  write_secret "$work/postgres.password" "$EUID" <<<"127.0.0.1:*:*:saga:$password"
  make_postgres_data "$folder" "$password" scram-sha-256
  give_certificate "$folder" "$postgres_user"
  demand_tls_of_postgres

  start_on_free_port postgres
  ask_postgres "CREATE ROLE saga_tls LOGIN CREATEDB PASSWORD '$password'" 2>"$work/postgres-client.log" ||
    fail_with_log "postgres: the role for TLS could not be made" "$work/postgres-client.log"
  export SAGASTORE_TEST_POSTGRES_URL=postgres://saga:$password@127.0.0.1:$port/postgres?sslmode=disable
  export SAGASTORE_TEST_POSTGRES_TLS_URL=postgres://saga_tls:$password@localhost:$port/postgres
  export SAGASTORE_TEST_POSTGRES_PID=$postgres_pid
  export SAGASTORE_TEST_POSTGRES_VERSION=$postgres_version
}

stop_postgres() {
  local pid
  local -a as clean
  for pid in $(server_pids postgres); do
    as_server "$postgres_user" /
    stop_server "$pid" timeout -k 5 "$stop_seconds" "${as[@]}" "$postgres_folder/pg_ctl" \
      stop -D "$work/postgres/data" -m immediate -t "$stop_seconds"
  done
}
