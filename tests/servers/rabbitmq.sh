# shellcheck shell=bash
# Part of tests/run: a throwaway RabbitMQ.
# shellcheck disable=SC2034,SC2154 # its variables are shared with tests/run and the other parts

# The command in the PATH goes to Debian's own folders and user; this one does not.
readonly rabbitmq_server=/usr/lib/rabbitmq/bin/rabbitmq-server
readonly rabbitmq_control=/usr/lib/rabbitmq/bin/rabbitmqctl

# Sets rabbitmq_user and rabbitmq_epmd.
find_rabbitmq() {
  rabbitmq_user=$(server_user rabbitmq)
  rabbitmq_epmd=$(type -P epmd) || return 1
  [[ -x $rabbitmq_server ]] && type -P erl >/dev/null
}

configure_rabbitmq() {
  write_secret "$folder/rabbitmq.conf" "$rabbitmq_user" <<END
default_user = saga
default_pass = $password
END
  write_secret "$folder/enabled_plugins" "$rabbitmq_user" <<<'[].'
  write_secret "$folder/environment" "$rabbitmq_user" </dev/null
}

# Erlang's nodes are found by a daemon, which would be started if it was not there, and left behind.
launch_epmd() {
  stop_epmd
  # shellcheck disable=SC2016 # it is the inner shell that expands these
  setsid "${as[@]}" bash -c 'exec -a "$0" "$1" -address 127.0.0.1 -port "$2"' \
    "$folder/epmd" "$rabbitmq_epmd" "$1" &
  rabbitmq_epmd_pid=$!
  disown "$rabbitmq_epmd_pid"
}

# other_port: a port beside that of the server.
other_port() {
  local port
  pick_port
  printf '%s\n' "$port"
}

# write_rabbitmq_memory EPMD-PORT: a script that sets which part of the machine's memory the server may take before it takes no
# more messages.
write_rabbitmq_memory() {
  local -a again=()
  set_again
  printf '#!/bin/sh\nexec %s set_vm_memory_high_watermark "$1" >/dev/null\n' \
    "$(printf '%q ' "${again[@]}" env ERL_EPMD_PORT="$1" RABBITMQ_CONF_ENV_FILE="$folder/environment" \
      RABBITMQ_NODENAME="sagastore-$port@localhost" "$rabbitmq_control")" >"$work/rabbitmq.memory"
  chmod 700 "$work/rabbitmq.memory"
}

launch_rabbitmq() {
  local epmd_port dist_port
  epmd_port=$(other_port)
  dist_port=$(other_port)
  launch_epmd "$epmd_port"
  write_rabbitmq_memory "$epmd_port"
  # With its input left to Erlang the script becomes the server, so that the process id is the
  # server's; then Erlang is told not to read it.
  launch_server rabbitmq env ERL_EPMD_PORT="$epmd_port" ERL_EPMD_ADDRESS=127.0.0.1 \
    RABBITMQ_CONF_ENV_FILE="$folder/environment" \
    RABBITMQ_NODENAME="sagastore-$port@localhost" RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 \
    RABBITMQ_NODE_PORT="$port" RABBITMQ_DIST_PORT="$dist_port" \
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}' \
    RABBITMQ_CONFIG_FILE="$folder/rabbitmq.conf" RABBITMQ_MNESIA_BASE="$folder/mnesia" \
    RABBITMQ_ENABLED_PLUGINS_FILE="$folder/enabled_plugins" RABBITMQ_LOG_BASE="$folder" \
    RABBITMQ_LOGS=- RABBITMQ_PID_FILE="$folder/server.pid" RABBITMQ_ALLOW_INPUT=1 \
    "$rabbitmq_server" -noinput
}

# Its answer to a client's first words comes when all of it is there.
probe_rabbitmq() {
  # shellcheck disable=SC2016 # it is the inner shell that expands these
  [[ -n $(timeout 5 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0" && printf "AMQP\0\0\11\1" >&3 &&
    head -c 1 <&3 | od -An -tx1' "$port") ]] || return 1
  rabbitmq_version=$(sed -n 's/.*Starting \(RabbitMQ [0-9.]* on Erlang [0-9.]*\).*/\1/p' \
    "$work/rabbitmq.log" | tail -n 1)
}

start_rabbitmq() {
  local port password folder=$work/rabbitmq
  local -a as clean
  if ! find_rabbitmq; then
    install_package rabbitmq-server rabbitmq-server
    find_rabbitmq || fail "no RabbitMQ ($rabbitmq_server, erl and epmd) found"
  fi
  make_server_folder "$folder" "$rabbitmq_user"
  as_server "$rabbitmq_user" "$folder"
  password=$(random_password)
  configure_rabbitmq
  start_on_free_port rabbitmq
  export SAGASTORE_TEST_RABBITMQ_URL=amqp://saga:$password@127.0.0.1:$port
  export SAGASTORE_TEST_RABBITMQ_PID=$rabbitmq_pid
  export SAGASTORE_TEST_RABBITMQ_RESTART=$work/rabbitmq.restart
  export SAGASTORE_TEST_RABBITMQ_MEMORY=$work/rabbitmq.memory
}

stop_epmd() {
  [[ -n $rabbitmq_epmd_pid ]] || return 0
  stop_server "$rabbitmq_epmd_pid" kill -TERM "$rabbitmq_epmd_pid"
  rabbitmq_epmd_pid=
}

# What is in a throwaway broker need not be put in order.
stop_rabbitmq() {
  local pid
  for pid in $(server_pids rabbitmq); do
    stop_server "$pid" kill -KILL "$pid"
  done
  stop_epmd
}
