# shellcheck shell=bash
# Part of tests/run: a throwaway MariaDB.
# shellcheck disable=SC2034,SC2154 # its variables are shared with tests/run and the other parts

# first_program NAME...: the path of the first one there is.
first_program() {
  local name
  for name in "$@"; do
    type -P "$name" && return
  done
  return 1
}

# Sets mysql_server, mysql_installer, mysql_client and mysql_user.
find_mysql() {
  local version
  mysql_user=$(server_user mysql)
  mysql_server=$(first_program mariadbd mysqld) || return 1
  mysql_installer=$(first_program mariadb-install-db mysql_install_db) || return 1
  mysql_client=$(first_program mariadb mysql) || return 1
  as_server "$mysql_user" /
  version=$(timeout 10 "${as[@]}" "$mysql_server" --no-defaults --version 2>/dev/null) || return 1
  [[ $version == *MariaDB* ]]
}

ask_mysql() {
  clean_environment /
  timeout 10 "${clean[@]}" "$mysql_client" --defaults-file="$work/mysql.password" \
    --protocol=tcp --host=127.0.0.1 --port="$port" --connect-timeout=5 \
    --batch --skip-column-names --execute="$1"
}

# SQL from stdin, as the administrator: the user who runs the server is let in on
# the unix socket without a password.
administer_mysql() {
  timeout 20 "${as[@]}" "$mysql_client" --no-defaults --protocol=socket \
    --socket="$work/mysql/server.sock" --user="$mysql_user" --connect-timeout=5
}

# All settings not named here are the server's own defaults, on purpose.
launch_mysql() {
  setsid "${as[@]}" "$mysql_server" --no-defaults --datadir="$work/mysql/data" \
    --socket="$work/mysql/server.sock" --pid-file="$work/mysql/server.pid" \
    --tmpdir="$work/mysql" --port="$port" --bind-address=127.0.0.1 \
    --max-connections=300 --skip-name-resolve \
    --ssl-cert="$work/mysql/tls.pem" --ssl-key="$work/mysql/tls.key" --ssl-ca="$work/mysql/tls.ca" &
  mysql_pid=$!
}

probe_mysql() {
  administer_mysql <<<'SELECT 1' >/dev/null
}

mysql_user_statements() {
  local host
  for host in 127.0.0.1 localhost; do
    printf "CREATE USER IF NOT EXISTS 'saga'@'%s' IDENTIFIED BY '%s';\n" "$host" "$1"
    printf "GRANT ALL PRIVILEGES ON *.* TO 'saga'@'%s' WITH GRANT OPTION;\n" "$host"
  done
}

# The user saga_tls gets in by TLS alone.
create_mysql_user() {
  local host
  {
    mysql_user_statements "$1"
    for host in 127.0.0.1 localhost; do
      printf "CREATE USER 'saga_tls'@'%s' IDENTIFIED BY '%s' REQUIRE SSL;\n" "$host" "$1"
      printf "GRANT ALL PRIVILEGES ON *.* TO 'saga_tls'@'%s';\n" "$host"
    done
  } | administer_mysql
}

# make_mysql_data FOLDER: as the user whom `as` says.
make_mysql_data() {
  run_interruptibly "${as[@]}" "$mysql_installer" --no-defaults --datadir="$1/data" \
    --tmpdir="$1" --skip-name-resolve --skip-test-db \
    --auth-root-authentication-method=socket --auth-root-socket-user="$mysql_user" \
    >"$work/mysql-install.log" 2>&1 ||
    fail_with_log "mysql: the data folder could not be made" "$work/mysql-install.log"
}

start_mysql() {
  local port password folder=$work/mysql
  local -a as clean
  if ! find_mysql; then
    install_package mariadb-server mariadb
    find_mysql || fail "no MariaDB server (mariadbd, mariadb-install-db and mariadb) found"
  fi
  make_server_folder "$folder" "$mysql_user"
  as_server "$mysql_user" "$folder"

  make_mysql_data "$folder"
  give_certificate "$folder" "$mysql_user"
  write_secret "$folder/tls.ca" "$mysql_user" <"$SAGASTORE_TEST_TLS_ROOT"
  password=$(random_password)
  write_secret "$work/mysql.password" "$EUID" <<<$'[client]\nuser=saga\npassword='"$password"
  start_on_free_port mysql
  create_mysql_user "$password" 2>"$work/mysql-client.log" ||
    fail_with_log "mysql: the test user could not be made" "$work/mysql-client.log" "$work/mysql.log"
  mysql_version=$(ask_mysql 'SELECT version()' 2>"$work/mysql-client.log") ||
    fail_with_log "mysql: the test user cannot get in" "$work/mysql-client.log" "$work/mysql.log"
  export SAGASTORE_TEST_MYSQL_URL=mysql://saga:$password@127.0.0.1:$port/mysql?ssl-mode=disabled
  export SAGASTORE_TEST_MYSQL_TLS_URL=mysql://saga_tls:$password@localhost:$port/mysql
  export SAGASTORE_TEST_MYSQL_PID=$mysql_pid
  export SAGASTORE_TEST_MYSQL_VERSION=$mysql_version
}

stop_mysql() {
  local pid
  for pid in $(server_pids mysql); do
    stop_server "$pid" kill -TERM "$pid"
  done
}
