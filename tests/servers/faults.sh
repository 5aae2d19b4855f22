# shellcheck shell=bash
# Part of tests/run: servers of their own for the tests that stop and kill servers, on a small disk that those
# tests can fill. They are made here, and started by a test, by a script for each.
# shellcheck disable=SC2034,SC2154 # its variables are shared with tests/run and the other parts

readonly small_disk_size=4G # sparse: it takes what is written to it

# Sets small_disk to a folder, which is a disk of its own where that can be had.
make_small_disk() {
  small_disk=$work/small-disk
  install -d -m 755 "$small_disk"
  ((EUID == 0)) && type -P mkfs.ext4 >/dev/null || return 0
  {
    truncate -s "$small_disk_size" "$work/small-disk.image" &&
      mkfs.ext4 -q -m 0 "$work/small-disk.image" &&
      mount -o loop "$work/small-disk.image" "$small_disk"
  } >"$work/small-disk.log" 2>&1 || return 0
  small_disk_is_mounted=true
  chmod 755 "$small_disk"
  local -a as=() server=() stop=()
  write_control disk filler="$small_disk/filler"
  export SAGASTORE_TEST_SMALL_DISK=$small_disk SAGASTORE_TEST_SMALL_DISK_CONTROL=$work/disk.control
}

# write_control NAME VARIABLE=VALUE...: a script that does to NAME what its argument says. The arrays `as`, `server`
# and `stop` are the caller's.
write_control() {
  local name=$1
  local -a again=()
  shift
  set_again
  {
    printf '#!/usr/bin/env bash\n'
    printf '%q\n' "$@"
    printf '%s=( %s)\n' as "$(printf '%q ' "${again[@]}")" server "$(printf '%q ' "${server[@]}")" \
      stop "$(printf '%q ' "${stop[@]}")"
    # shellcheck disable=SC2016 # it is the script's own argument
    printf '. %q "$1"\n' "$PWD/tests/servers/control/$name.sh"
  } >"$work/$name.control"
  chmod 700 "$work/$name.control"
}

# The settings are the server's own defaults, so it flushes each commit to the disk.
make_fault_postgres() {
  local port password folder=$small_disk/postgres
  local -a as clean server stop
  make_server_folder "$folder" "$postgres_user"
  as_server "$postgres_user" "$folder"
  password=$(random_password)
  # By no method that takes long: there are many connections again after each fault, and a busy client spreads the work
  # of SCRAM over so many turns that connecting takes seconds.
  make_postgres_data "$folder" "$password" password
  pick_port
  server=("$postgres_folder/postgres" -D "$folder/data" -p "$port" -c listen_addresses=127.0.0.1
    -c unix_socket_directories="$folder" -c max_connections=200)
  stop=("$postgres_folder/pg_ctl" stop -D "$folder/data" -m immediate -t "$stop_seconds")
  write_control postgres data="$folder/data" log="$work/postgres-faults.log"
  export SAGASTORE_TEST_POSTGRES_FAULTS_URL=postgres://saga:$password@127.0.0.1:$port/postgres?sslmode=disable
  export SAGASTORE_TEST_POSTGRES_FAULTS_CONTROL=$work/postgres.control
}

make_fault_mysql() {
  local port password folder=$small_disk/mysql
  local -a as clean server stop=()
  make_server_folder "$folder" "$mysql_user"
  as_server "$mysql_user" "$folder"
  password=$(random_password)
  make_mysql_data "$folder"
  mysql_user_statements "$password" | write_secret "$folder/users.sql" "$mysql_user"
  pick_port
  server=("$mysql_server" --no-defaults --datadir="$folder/data" --socket="$folder/server.sock"
    --pid-file="$folder/server.pid" --tmpdir="$folder" --port="$port" --bind-address=127.0.0.1
    --max-connections=300 --skip-name-resolve --init-file="$folder/users.sql")
  write_control mysql folder="$folder" log="$work/mysql-faults.log"
  export SAGASTORE_TEST_MYSQL_FAULTS_URL=mysql://saga:$password@127.0.0.1:$port/mysql?ssl-mode=disabled
  export SAGASTORE_TEST_MYSQL_FAULTS_CONTROL=$work/mysql.control
}

# After start_postgres and start_mysql, which look for the programs.
make_fault_servers() {
  is_selected sqlite || is_selected postgres || is_selected mysql || return 0
  make_small_disk
  ! is_selected postgres || make_fault_postgres
  ! is_selected mysql || make_fault_mysql
}

stop_fault_servers() {
  local name
  for name in postgres mysql; do
    [[ ! -x $work/$name.control ]] || "$work/$name.control" kill
  done
}

remove_small_disk() {
  local tries
  $small_disk_is_mounted || return 0
  # What was killed may take a moment to end.
  for tries in {1..20}; do
    umount "$small_disk" && return
    sleep "0.$((tries % 10))"
  done
  umount -l "$small_disk"
}
