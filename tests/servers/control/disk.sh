# shellcheck shell=bash
# Fills the disk that has `filler`, or frees it again.
# shellcheck disable=SC2154

case $1 in
  fill)
    free=$(df --output=avail -B 4096 "${filler%/*}" | tail -n 1)
    fallocate -l $((free * 4096 * 99 / 100)) "$filler" 2>/dev/null
    # The last blocks, which the file system may keep for itself, are taken one by one.
    cat /dev/zero >>"$filler" 2>/dev/null
    [[ -s $filler ]]
    ;;
  free)
    rm -f "$filler"
    ;;
esac
