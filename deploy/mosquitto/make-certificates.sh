#!/usr/bin/env bash
# Certificates for a broker as mosquitto.conf and acl beside this script want them, with openssl alone.
#
#     make-certificates.sh DIR NAME...            an authority, and certificates for the broker, for `soc` and for `monitor`
#     make-certificates.sh DIR --client NAME...   one more for each device (SITE/DEVICE) or consumer (soc-2)
#
# The first form takes the names and addresses by which devices and consumers reach the broker. It makes, in DIR:
#
#     ca.crt ca.key                        the authority; ca.key signs: keep it off the broker's machine
#     server.crt server.key                for the broker
#     soc.crt soc.key, monitor.crt ...     for who consumes, and who looks
#
# A device's files are called SITE.DEVICE.crt and SITE.DEVICE.key, and its common name is SITE/DEVICE, by which the access
# rules know it. All are of X.509 version 3 and valid for DAYS days (730; the authority for ten times as long).
# Nothing that is there is overwritten: to renew a certificate, move the old files away.
#
# For trials and small sites. It revokes nothing and renews nothing by itself: a fleet uses `vedette-fleet enrol`, or an
# authority of its own (deploy/fleet/enrolment.md).
set -euo pipefail
umask 077
DAYS=${DAYS:-730}

fail() {
    echo "make-certificates.sh: $*" >&2
    exit 1
}

usage() {
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
}

# make_key_and_request FILE COMMON_NAME
make_key_and_request() {
    local name='[A-Za-z0-9_-]{1,64}'
    [[ $1 == ca || $2 =~ ^$name(/$name)?$ ]] || fail "$2: a name is 1 to 64 of a-z A-Z 0-9 _ -, a device's is SITE/DEVICE"
    ((${#2} <= 64)) || fail "$2: a common name has at most 64 characters; let this device log in by user name and password"
    [[ ! -e $dir/$1.key && ! -e $dir/$1.crt ]] || fail "$dir/$1.key or .crt is there already: nothing is overwritten"
    # Without the system's own configuration, which may add what it likes. A common name may have a slash in it.
    printf '[req]\ndistinguished_name = name\nprompt = no\n[name]\nCN = %s\n' "$2" >"$work/request.cnf"
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$work/$1.key"
    openssl req -new -config "$work/request.cnf" -key "$work/$1.key" -out "$work/$1.csr"
}

# sign FILE DAYS EXTENSIONS SIGNER...   Without extensions openssl would make a version 1 certificate, which no TLS library takes.
sign() {
    local file=$1 days=$2
    printf '%s\nsubjectKeyIdentifier = hash\n' "$3" >"$work/extensions.cnf"
    shift 3
    openssl x509 -req -in "$work/$file.csr" -days "$days" -sha256 -set_serial "0x01$(openssl rand -hex 15)" \
        -extfile "$work/extensions.cnf" "$@" -out "$work/$file.crt" 2>"$work/said" || fail "$(cat "$work/said")"
    chmod 644 "$work/$file.crt"
    made+=("$file")
}

by_authority() {
    sign "$1" "$DAYS" "$2"$'\nauthorityKeyIdentifier = keyid' -CA "$authority.crt" -CAkey "$authority.key"
}

client() {
    make_key_and_request "${1/\//.}" "$1"
    by_authority "${1/\//.}" $'basicConstraints = critical,CA:FALSE\nkeyUsage = critical,digitalSignature\nextendedKeyUsage = clientAuth'
}

(($# >= 2)) && [[ $1 != -* ]] || usage
command -v openssl >/dev/null || fail "openssl is not installed"
dir=$1
shift
made=()
mkdir -p "$dir"
work=$(mktemp -d "$dir/.making.XXXXXX")
trap 'rm -rf "$work"' EXIT

if [[ $1 == --client ]]; then
    shift
    (($# >= 1)) || usage
    authority=$dir/ca
    [[ -r $authority.key && -r $authority.crt ]] || fail "$dir has no ca.crt and ca.key: make the broker's certificates first"
    for name in "$@"; do client "$name"; done
else
    alternatives=
    for name in "$@"; do
        if [[ $name =~ ^[0-9.]+$ || $name == *:* ]]; then kind=IP; else kind=DNS; fi
        [[ $name =~ ^[A-Za-z0-9.:*-]+$ ]] || fail "$name is no host name and no address"
        alternatives+="${alternatives:+,}$kind:$name"
    done
    authority=$work/ca
    make_key_and_request ca "Vedette site authority"
    sign ca $((10 * DAYS)) $'basicConstraints = critical,CA:TRUE,pathlen:0\nkeyUsage = critical,keyCertSign,cRLSign' \
        -signkey "$work/ca.key"
    make_key_and_request server broker
    by_authority server $'basicConstraints = critical,CA:FALSE\nkeyUsage = critical,digitalSignature\nextendedKeyUsage = serverAuth\n'"subjectAltName = $alternatives"
    client soc
    client monitor
fi

# All or none.
for file in "${made[@]}"; do
    mv -n "$work/$file.key" "$work/$file.crt" "$dir/"
    echo "$dir/$file.crt $(openssl x509 -in "$dir/$file.crt" -noout -enddate)"
done
echo "For trials and small sites: nothing renews or revokes these. Give each party its own .crt and .key, and ca.crt; ca.key stays here." >&2
