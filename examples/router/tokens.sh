#!/usr/bin/env bash
# bash examples/router/tokens.sh examples/router/teams/jobgate.yaml
#
# Writes a random token to every `token_file` of a configuration that is not there yet, readable by you alone.
set -euo pipefail
umask 077
config=$1
grep -v '^ *#' "$config" | grep -o 'token_file: *[^ ,}]*' | while read -r _ file; do
	path=$(dirname "$config")/$file
	[ -e "$path" ] || head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$path"
done
