#!/usr/bin/python
# Makes a spool's directory. Whoever uses the spool may be able to write above it, as uid 0 even, so the way there is walked
# by descriptors, and a link in it, wherever it stands and whosever it is, is refused: ansible.builtin.file would follow it.

from __future__ import annotations

import grp
import os
import pwd
import re
import stat

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: portcullis_spool
short_description: Make the directory of a spool, following no link
description:
  - Makes a directory, with those above it that are missing, and sets its owner, group and mode.
  - Refuses a path with a symbolic link in it. C(/var/run) and C(/var/lock) are taken for what the host has in their place.
options:
  path: {description: The directory., type: str, required: true}
  owner: {description: Its user, by name or number., type: str, required: true}
  group: {description: Its group, by name or number., type: str, required: true}
  mode: {description: Its mode, as four octal digits., type: str, required: true}
author:
  - Portcullis's authors
"""

EXAMPLES = """
- name: Make a spool
  portcullis_spool:
    path: /var/spool/portcullis/web/httpd
    owner: "42435"
    group: "42435"
    mode: "0750"
"""

RETURN = "{}"

# What most hosts have as links of root's, in a directory that nobody else can write.
HOSTS_OWN = ("/var/run", "/var/lock")
# A directory itself: no link, nothing that blocks.
FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Refused(Exception):
    """Why a path is left alone."""


def parts_of(path: str) -> list[str]:
    """The components of an absolute path, none of which leads upwards."""
    parts = [part for part in path.split("/") if part]
    if not path.startswith("/") or not parts or "." in parts or ".." in parts:
        raise Refused("must be absolute, without . and ..")
    own = "/" + "/".join(parts[:2])
    if own in HOSTS_OWN and os.path.islink(own):
        parts[:2] = [part for part in os.path.realpath(own).split("/") if part]
    return parts


def opened(parts: list[str], make: bool) -> int | None:
    """A descriptor of the directory, made where it is missing; None: it is missing and is not to be made."""
    directory = os.open("/", FLAGS)
    for number, part in enumerate(parts, 1):
        path = "/" + "/".join(parts[:number])
        above = directory
        try:
            try:
                directory = os.open(part, FLAGS, dir_fd=above)
            except FileNotFoundError:
                if not make:
                    return None
                # Of two names that are made at once, one is what it is: a link is not followed here either.
                os.mkdir(part, 0o755, dir_fd=above)
                directory = os.open(part, FLAGS, dir_fd=above)
        except OSError as error:
            if os.path.islink(path):
                raise Refused(f"{path} is a symbolic link") from error
            raise Refused(f"{path}: {error.strerror}") from error
        finally:
            os.close(above)
    return directory


def changed(parts: list[str], uid: int, gid: int, mode: int, check: bool) -> bool:
    """Makes the directory what it is to be; whether it was not."""
    directory = opened(parts, make=False)
    missing = directory is None
    if missing:
        if check:
            return True
        directory = opened(parts, make=True)
    try:
        found = os.fstat(directory)
        owner, right = (found.st_uid, found.st_gid) != (uid, gid), stat.S_IMODE(found.st_mode) != mode
        if owner and not check:
            os.fchown(directory, uid, gid)
        if (owner or right) and not check:
            os.fchmod(directory, mode)
        return missing or owner or right
    finally:
        os.close(directory)


def number(name: str, known) -> int:
    """A user's or group's number, by name or by itself."""
    return int(name) if name.isdigit() else known(name)


def main() -> None:
    text = {"type": "str", "required": True}
    module = AnsibleModule(
        argument_spec={"path": text, "owner": text, "group": text, "mode": text},
        supports_check_mode=True,
    )
    wanted = module.params
    try:
        uid = number(wanted["owner"], lambda name: pwd.getpwnam(name).pw_uid)
        gid = number(wanted["group"], lambda name: grp.getgrnam(name).gr_gid)
        if not re.fullmatch("0[0-7]{3}", wanted["mode"]):
            raise Refused(f"mode {wanted['mode']} must be four octal digits in quotes, the first a 0")
        mode = int(wanted["mode"], 8)
        did = changed(parts_of(wanted["path"]), uid, gid, mode, module.check_mode)
    except (Refused, KeyError, ValueError, OSError) as error:
        module.fail_json(msg=f"refusing to make spool {wanted['path']}: {error}")
    module.exit_json(changed=did)


if __name__ == "__main__":
    main()
