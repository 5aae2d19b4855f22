# shellcheck shell=bash
# Starts, stops at once, or kills a PostgreSQL, whose `data` folder, `log` and command lines the caller has set.
# shellcheck disable=SC2154

# The process of the server, if it is running: the number in its file may long be another's.
running() {
  local pid
  pid=$(head -n 1 "$data/postmaster.pid" 2>/dev/null)
  [[ -n $pid ]] && grep -aqsF -- "$data" "/proc/$pid/cmdline" && printf '%s\n' "$pid"
}

wait_gone() {
  local tries
  for ((tries = 0; tries < 200; tries++)); do
    running >/dev/null || return 0
    sleep 0.05
  done
  return 1
}

case $1 in
  start)
    # One that ends at once, because what was killed has not ended yet, is started again by who waits for it.
    if ! running >/dev/null; then
      setsid "${as[@]}" "${server[@]}" </dev/null >>"$log" 2>&1 &
    fi
    ;;
  stop)
    ! running >/dev/null || "${as[@]}" "${stop[@]}" >>"$log" 2>&1 || true
    wait_gone
    ;;
  kill)
    if pid=$(running); then
      mapfile -t children < <(pgrep -P "$pid")
      kill -KILL "$pid" "${children[@]}" 2>/dev/null || true
    fi
    wait_gone
    ;;
esac
