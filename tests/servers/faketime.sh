# shellcheck shell=bash
# Part of tests/run: the library that gives a process a clock of its own.
# shellcheck disable=SC2034,SC2154 # its variables are shared with tests/run and the other parts

# Sets faketime_library.
find_faketime() {
  local -a places
  places=(/usr/lib/*/faketime/libfaketimeMT.so.1 /usr/lib/faketime/libfaketimeMT.so.1
    /usr/local/lib/faketime/libfaketimeMT.so.1)
  for faketime_library in "${places[@]}"; do
    # It works only if programs of this machine can load it.
    [[ $(LD_PRELOAD=$faketime_library FAKETIME='2001-02-03 04:05:06' date +%Y 2>/dev/null) != 2001 ]] || return 0
  done
  faketime_library=
  return 1
}

# Without it the suite runs all the same, and says at its end what it did not try.
have_faketime() {
  # A suite that needs no server installs nothing.
  find_faketime || [[ ${selected[*]} == sqlite ]] || (install_package faketime faketime) || true
  if [[ -n $faketime_library ]] || find_faketime; then
    export SAGASTORE_TEST_FAKETIME=$faketime_library
  else
    say 'NO LIBFAKETIME: clocks that step are not tried'
  fi
}

print_faketime() {
  [[ -n $faketime_library ]] || printf '\nNOT TRIED: clocks that step, as libfaketime could not be had\n'
}
