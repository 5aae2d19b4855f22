# shellcheck shell=bash
# Part of tests/run: a throwaway NATS with JetStream.
# shellcheck disable=SC2034,SC2154 # its variables are shared with tests/run and the other parts

# Sets nats_server and nats_user.
find_nats() {
  nats_user=$(server_user nats)
  nats_server=$(type -P nats-server) || return 1
  as_server "$nats_user" /
  [[ $(timeout 10 "${as[@]}" "$nats_server" --version 2>/dev/null) == 'nats-server: '* ]]
}

# The password is in a file, where the list of processes does not show it.
configure_nats() {
  write_secret "$folder/server.conf" "$nats_user" <<END
listen: "127.0.0.1:$port"
pid_file: "$folder/server.pid"
jetstream { store_dir: "$folder/data" }
authorization { user: "saga", password: "$password" }
END
}

launch_nats() {
  configure_nats
  launch_server nats "$nats_server" --config "$folder/server.conf"
}

# It greets whoever connects, with its version.
probe_nats() {
  local greeting
  greeting=$(timeout 5 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0" && head -n 1 <&3' "$port") || return 1
  [[ $greeting == 'INFO {'*'"jetstream":true'* ]] || return 1
  nats_version=$(sed -n 's/.*"version":"\([^"]*\)".*/NATS \1/p' <<<"$greeting")
}

start_nats() {
  local port password folder=$work/nats
  local -a as clean
  if ! find_nats; then
    install_package nats-server nats-server
    find_nats || fail "no NATS server (nats-server) found"
  fi
  make_server_folder "$folder" "$nats_user"
  as_server "$nats_user" "$folder"
  password=$(random_password)
  start_on_free_port nats
  export SAGASTORE_TEST_NATS_URL=nats://saga:$password@127.0.0.1:$port
  export SAGASTORE_TEST_NATS_PID=$nats_pid
  export SAGASTORE_TEST_NATS_RESTART=$work/nats.restart
}

stop_nats() {
  local pid
  for pid in $(server_pids nats); do
    stop_server "$pid" kill -TERM "$pid"
  done
}
