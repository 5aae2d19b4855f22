# shellcheck shell=bash
# Part of tests/run: what starting any throwaway server needs.
# shellcheck disable=SC2034,SC2154 # its variables are shared with tests/run and the other parts

# ---- folders, users, commands ---------------------------------------------

# Can the servers live in a folder here? The path of a unix socket may have 107
# characters at the most, MariaDB's installer cannot cope with spaces in a path, and
# the user who runs the servers for root must be able to get in.
is_good_place() {
  ((${#1} <= 50)) && [[ $1 =~ ^[A-Za-z0-9/._-]+$ && -d $1 && -w $1 ]] || return 1
  ((EUID != 0)) ||
    setpriv --reuid=nobody --regid="$(id -g nobody)" --clear-groups test -x "$1"
}

make_work_folder() {
  local place
  place=$(realpath "${TMPDIR:-/tmp}" 2>/dev/null) && is_good_place "$place" || place=/tmp
  work=$(mktemp -d "$place/sagastore-tests.XXXXXXXX")
  ((EUID != 0)) || chmod 711 "$work"
}

# make_server_folder FOLDER USER
make_server_folder() {
  if ((EUID == 0)); then
    install -d -m 700 -o "$2" -g "$(id -g "$2")" "$1"
  else
    install -d -m 700 "$1"
  fi
}

# write_secret FILE OWNER: keeps stdin in a file that only OWNER can read.
write_secret() {
  (umask 077 && cat >"$1")
  ((EUID != 0)) || chown "$2" "$1"
}

# Passwords are hexadecimal so that they need no quoting in a URL or in SQL.
random_password() {
  od -An -N16 -tx1 /dev/urandom | tr -d ' \n'
}

# server_user NAME: who runs a server. PostgreSQL refuses to run as root.
server_user() {
  if ((EUID != 0)); then
    id -un
  elif id -u "$1" >/dev/null 2>&1; then
    printf '%s\n' "$1"
  else
    printf 'nobody\n'
  fi
}

# clean_environment FOLDER: the start of a command line that runs a command with
# nothing of the caller's environment (PGOPTIONS and the like would have effects)
# and with messages in English, which are looked at below. The signals are ones
# that a shell makes its background commands ignore.
clean_environment() {
  clean=(env -i "--default-signal=INT,QUIT" --chdir="$1"
    "PATH=$PATH" "HOME=$1" "TMPDIR=$1" LC_ALL=C)
}

# as_server USER FOLDER: the same as USER. Should this script be killed outright,
# the kernel ends the command: both servers take SIGQUIT as an order to stop.
as_server() {
  local -a identity=()
  if ((EUID == 0)); then
    identity=(--reuid="$1" --regid="$(id -g "$1")" --init-groups)
  fi
  clean_environment "$2"
  as=(setpriv "${identity[@]}" --pdeathsig=QUIT "${clean[@]}")
}

# Runs a command so that a signal to this script is acted upon at once, not only
# when the command has ended, and so that it can be ended with all it started.
run_interruptibly() {
  start_child "$@"
  wait_for_child
}

start_child() {
  setsid "$@" &
  child=$!
}

wait_for_child() {
  local status=0
  wait "$child" || status=$?
  end_group "$child" # whatever it left behind
  child=
  return "$status"
}

stop_child() {
  [[ -n $child ]] || return 0
  # It may not have made its session yet, and then there is no group either.
  kill -TERM "$child" 2>/dev/null || true
  end_group "$child"
  child=
}

end_group() {
  local tries
  kill -TERM -- "-$1" 2>/dev/null || return 0
  for ((tries = 0; tries < 50; tries++)); do
    kill -0 -- "-$1" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -KILL -- "-$1" 2>/dev/null || true
}

# ---- installing -----------------------------------------------------------

# install_package PACKAGE SERVICE
install_package() {
  local package=$1 service=$2 log=$work/install-$1.log installed_before=false
  local -a as_root=()
  command -v apt-get >/dev/null || fail "$package is missing, and there is no apt-get to install it with"
  if ((EUID != 0)); then
    sudo -n true 2>/dev/null ||
      fail "$package is missing, and installing it needs root or a sudo without password"
    as_root=(sudo -n)
  fi
  if [[ $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) == 'install ok installed' ]]; then
    installed_before=true
  fi

  say "installing Debian's $package"
  # An update that fails is no reason to give up: the lists may be there already.
  "${as_root[@]}" apt-get -q update >"$log" 2>&1 || true
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y \
    -o DPkg::Lock::Timeout=600 --no-install-recommends install "$package" >>"$log" 2>&1 ||
    fail_with_log "$package could not be installed" "$log"

  # The package may have started a server of its own, which nobody asked for.
  $installed_before || "${as_root[@]}" service "$service" stop >>"$log" 2>&1 || true
}

# ---- starting -------------------------------------------------------------

# Sets `port` to one that nobody listens on. It is below the range from which the
# kernel takes ports for outgoing connections, so none of those can get it either.
pick_port() {
  local number
  for number in {1..100}; do
    port=$((20000 + RANDOM % 12000))
    printf -v number '%04X' "$port"
    grep -qsE "^ *[0-9]+: [0-9A-F]+:$number " /proc/net/tcp /proc/net/tcp6 || return 0
  done
  fail "no free port on this machine"
}

# wait_until_ready PID COMMAND...: until COMMAND works; fails if PID ends before.
wait_until_ready() {
  local pid=$1 end=$((SECONDS + ready_seconds))
  shift
  until "$@"; do
    kill -0 "$pid" 2>/dev/null || return 1
    ((SECONDS < end)) || return 1
    sleep 0.2
  done
}

# start_on_free_port NAME: calls launch_NAME, which sets NAME_pid, until it is
# there. Somebody else may take the port first; then with another one.
start_on_free_port() {
  local name=$1 log=$work/$1.log tries
  local -n server_pid=${name}_pid
  for tries in {1..5}; do
    pick_port
    : >"$log"
    "launch_$name" >>"$log" 2>&1
    disown "$server_pid" || true # a test that kills it is no news for the terminal
    if wait_until_ready "$server_pid" "probe_$name" 2>"$work/$name-client.log"; then
      return
    fi
    grep -qi -e 'address already in use' -e eaddrinuse "$log" || break
    say "$name: port taken (attempt $tries)"
  done
  fail_with_log "$name did not start" "$work/$name-client.log" "$log"
}

# Sets `again` to `as` for what a test starts, which is not to be ended with the shell that starts it.
set_again() {
  local part
  again=()
  for part in "${as[@]}"; do
    [[ $part == --pdeathsig=* ]] || again+=("$part")
  done
}

# launch_server NAME COMMAND...: runs COMMAND as the server's user, which `as` says, and
# writes a script by which a test can run it again. That one is not ended with this
# script by the kernel, since it is the test that starts it.
launch_server() {
  local name=$1
  local -n launched_pid=${name}_pid
  local -a again=()
  shift
  set_again
  printf '#!/bin/sh\nexec setsid %s </dev/null >>%q 2>&1\n' \
    "$(printf '%q ' "${again[@]}" "$@")" "$work/$name.log" >"$work/$name.restart"
  chmod 700 "$work/$name.restart"
  setsid "${as[@]}" "$@" &
  launched_pid=$!
}

# ---- stopping -------------------------------------------------------------

# Is this process a server of ours? The number may long belong to another process.
is_our_server() {
  [[ -n $1 ]] && grep -aqsF -- "$work/" "/proc/$1/cmdline"
}

# wait_gone PID
wait_gone() {
  local end=$((SECONDS + stop_seconds))
  while is_our_server "$1" && ((SECONDS < end)); do
    sleep 0.1
  done
}

# stop_server PID COMMAND...: COMMAND asks the server to stop. A test may have
# left it frozen by SIGSTOP, in which state it would not hear that.
stop_server() {
  local pid=$1
  shift
  is_our_server "$pid" || return 0
  kill -CONT "$pid"
  "$@" >/dev/null 2>&1
  wait_gone "$pid"
  ! is_our_server "$pid" || kill -KILL "$pid"
}

# server_pids NAME: a test may have restarted the server, so that its pid file
# names another process than the one started here.
server_pids() {
  local -n first_pid=$1_pid
  [[ -n $first_pid ]] || return 0
  head -q -n 1 "$work/$1/server.pid" "$work/$1/data/postmaster.pid" 2>/dev/null || true
  printf '\n%s\n' "$first_pid" # a pid file may lack the end of its line
}

is_running() {
  local pid
  for pid in $(server_pids "$1"); do
    ! is_our_server "$pid" || return 0
  done
  return 1
}
