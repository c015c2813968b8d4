"""Presets whose variables get a host's own values."""

import json
import re

from ansible.errors import AnsibleFilterError


def portcullis_preset(text, values):
    """A preset's text with other values for variables of its [vars], and with everything else, comments too, as it is.

    A name that the preset does not have is an error: the policy would be another than whoever wrote it down believes.
    """
    start = re.search(r"^\[vars\][^\n]*\n", text, re.MULTILINE)
    begin = start.end() if start else len(text)
    after = re.compile(r"^\[", re.MULTILINE).search(text, begin)
    end = after.start() if after else len(text)
    table = text[begin:end]
    for name, value in values.items():
        line = re.compile(r'^(%s\s*=\s*)"[^"\n]*"' % re.escape(name), re.MULTILINE)
        if not line.search(table):
            raise AnsibleFilterError(
                f"the preset has no variable {name!r} in [vars]; see its file in /usr/share/portcullis/presets"
            )
        # JSON's strings are TOML's. By a function, as backslashes mean something in a replacement.
        table = line.sub(
            lambda found, value=value: found[1] + json.dumps(str(value), ensure_ascii=False), table
        )
    return text[:begin] + table + text[end:]


class FilterModule:
    """What Ansible looks for."""

    def filters(self):
        """The filters by their names."""
        return {"portcullis_preset": portcullis_preset}
