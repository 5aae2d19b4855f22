# shellcheck shell=bash
# Part of tests/run: certificates for the throwaway databases.
# shellcheck disable=SC2034,SC2154 # its variables are shared with tests/run and the other parts

readonly tls_days=2

# make_authority NAME: a root certificate, and its key.
make_authority() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days "$tls_days" \
    -subj "/CN=sagastore tests $1" -addext basicConstraints=critical,CA:TRUE \
    -addext keyUsage=critical,keyCertSign -keyout "$folder/$1.key" -out "$folder/$1.pem"
}

# One for the host name localhost alone, so that 127.0.0.1 is a wrong name.
make_server_certificate() {
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost \
    -keyout "$folder/server.key" -out "$folder/server.csr"
  printf 'subjectAltName=DNS:localhost\nbasicConstraints=critical,CA:FALSE\nextendedKeyUsage=serverAuth\n' \
    >"$folder/server.ext"
  openssl x509 -req -in "$folder/server.csr" -CA "$folder/root.pem" -CAkey "$folder/root.key" \
    -CAcreateserial -days "$tls_days" -extfile "$folder/server.ext" -out "$folder/server.pem"
}

# Makes the certificate of the servers, its root, and another root that did not sign it.
make_certificates() {
  local folder=$work/tls
  command -v openssl >/dev/null || install_package openssl openssl
  mkdir "$folder"
  { (umask 077 && make_authority root && make_authority other && make_server_certificate); } \
    >"$work/tls.log" 2>&1 || fail_with_log "the certificates could not be made" "$work/tls.log"
  chmod 755 "$folder"
  chmod 644 "$folder"/*.pem
  export SAGASTORE_TEST_TLS_ROOT=$folder/root.pem
  export SAGASTORE_TEST_TLS_OTHER_ROOT=$folder/other.pem
}

# give_certificate FOLDER USER: what a server needs to take TLS.
give_certificate() {
  write_secret "$1/tls.pem" "$2" <"$work/tls/server.pem"
  write_secret "$1/tls.key" "$2" <"$work/tls/server.key"
}
