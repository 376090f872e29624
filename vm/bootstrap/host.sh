#!/bin/bash
# Make this machine able to run djprobes: one apt call if something is missing,
# one virtual environment if pyproject.toml changed.  Says nothing when there is
# nothing to do.
#
# QEMU must be 10 or later.  Where the host's suite has an older one, it is taken
# from the backports suite through an apt configuration of our own: the host's
# sources are copied, not changed, and the mirror is the one they name.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
cache=${DJP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/djprobes}
qemu_wanted=10
export LC_ALL=C.UTF-8
PATH=$PATH:/usr/sbin:/sbin

say() { printf 'bootstrap: %s\n' "$*" >&2; }
fail() { say "$1"; say "next: $2"; exit 1; }

qemu_major() {
	if [ -n "${DJP_QEMU:-}" ]; then # the user's own choice
		echo "$qemu_wanted"
		return
	fi
	{ qemu-system-x86_64 --version 2>/dev/null || true; } |
		sed -n '1s/.*version \([0-9]*\)\..*/\1/p'
}

# Installed means: dpkg says so.  A tool from elsewhere might be too old.
missing_packages() {
	local wanted installed
	wanted=$(grep -v '^#' "$here/packages.txt" | sort)
	# dpkg-query fails when it does not know one of them
	# shellcheck disable=SC2086  # a list of words
	installed=$({ dpkg-query -W -f '${db:Status-Status} ${Package}\n' $wanted 2>/dev/null || true; } |
		sed -n 's/^installed //p' | sort)
	comm -23 <(printf '%s\n' "$wanted") <(printf '%s\n' "$installed")
}

# The mirror of the host's own suite, as apt itself says it.
host_mirror() {
	apt-get indextargets --no-release-info --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
		sed -n "s/^$1 main //p" | head -n 1
}

install_packages() {
	local -a packages=("$@") as_root=() options=()
	local codename mirror private
	[ "$(id -u)" = 0 ] || as_root=(sudo)
	if [ ${#as_root[@]} -gt 0 ] && ! command -v sudo >/dev/null; then
		fail "missing: ${packages[*]}; you are not root and there is no sudo" \
			"as root: apt-get install ${packages[*]}"
	fi
	command -v apt-get >/dev/null || fail "this is no Debian machine: there is no apt-get" \
		"install the equivalents of vm/bootstrap/packages.txt and QEMU >= $qemu_wanted"
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	private=$cache/apt-host
	mkdir -p "$private/sources" "$private/lists/partial"
	rm -f "$private/sources"/*
	[ ! -f /etc/apt/sources.list ] || cp /etc/apt/sources.list "$private/sources/host.list"
	find /etc/apt/sources.list.d -maxdepth 1 \( -name '*.list' -o -name '*.sources' \) \
		-exec cp -t "$private/sources" {} + 2>/dev/null || true
	options=(
		-o Dir::Etc::SourceList=/dev/null
		-o "Dir::Etc::SourceParts=$private/sources"
		-o "Dir::State::Lists=$private/lists"
		-o APT::Sandbox::User=root
		-o Acquire::Retries=3
	)
	mirror=$(host_mirror "$codename")
	if [ "$codename" = bookworm ]; then
		[ -n "$mirror" ] || fail "apt names no mirror for Debian $codename" \
			"add one to the host's apt sources, or install QEMU >= $qemu_wanted yourself"
		printf 'deb [signed-by=%s] %s %s-backports main\n' \
			/usr/share/keyrings/debian-archive-keyring.gpg "${mirror%/}" "$codename" \
			>"$private/sources/djprobes-backports.list"
		options+=(-t "$codename-backports")
	fi
	say "installing: ${packages[*]}"
	"${as_root[@]}" apt-get "${options[@]}" -qq update >&2
	"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
		apt-get "${options[@]}" -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends "${packages[@]}" >&2
}

ensure_packages() {
	local -a packages
	local major
	mapfile -t packages < <(missing_packages)
	major=$(qemu_major)
	if [ "${major:-0}" -lt "$qemu_wanted" ]; then
		[ -z "$major" ] || say "QEMU $major is too old: it must be $qemu_wanted or later"
		packages+=(qemu-system-x86 qemu-utils)
	fi
	[ ${#packages[@]} -gt 0 ] || return 0
	mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)
	install_packages "${packages[@]}"
	major=$(qemu_major)
	[ "${major:-0}" -ge "$qemu_wanted" ] || fail "QEMU is still ${major:-missing}" \
		"install QEMU >= $qemu_wanted and point DJP_QEMU at its qemu-system-x86_64"
}

ensure_venv() {
	local venv=$top/.venv stamp
	stamp=$venv/pyproject-$(sha256sum "$top/pyctl/pyproject.toml" | cut -c1-16)
	[ ! -f "$stamp" ] || return 0
	python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
		fail "$(python3 --version) is too old" "put Python 3.11 or later first on the PATH"
	say "making the virtual environment .venv"
	rm -rf "$venv"
	python3 -m venv "$venv"
	"$venv/bin/pip" install -qq --disable-pip-version-check -e "$top/pyctl[dev]" >&2
	touch "$stamp"
}

ensure_packages
ensure_venv
