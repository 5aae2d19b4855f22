# shellcheck shell=bash
# Starts, stops, or kills a MariaDB, whose `folder`, `log` and command line the caller has set.
# shellcheck disable=SC2154

# The process of the server, if it is running: the number in its file may long be another's. The file comes late.
running() {
  local pid
  # shellcheck disable=SC2013 # words, since a file may be empty
  for pid in $(cat "$folder/server.pid" "$folder/started.pid" 2>/dev/null); do
    if grep -aqsF -- "$folder/data" "/proc/$pid/cmdline"; then
      printf '%s\n' "$pid"
      return
    fi
  done
  return 1
}

wait_gone() {
  local tries
  for ((tries = 0; tries < $1; tries++)); do
    running >/dev/null || return 0
    sleep 0.05
  done
  return 1
}

case $1 in
  start)
    if ! running >/dev/null; then
      setsid "${as[@]}" "${server[@]}" </dev/null >>"$log" 2>&1 &
      echo $! >"$folder/started.pid"
    fi
    ;;
  stop)
    ! pid=$(running) || kill -TERM "$pid"
    wait_gone 2400
    ;;
  kill)
    ! pid=$(running) || kill -KILL "$pid"
    wait_gone 1200
    ;;
esac
