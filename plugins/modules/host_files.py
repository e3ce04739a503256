#!/usr/bin/python
# Copyright (c) 2026, the flatnet.overlay authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writes a host's small files."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_files
version_added: 0.1.0
short_description: A host's small text files, all at once
description:
  - Writes any number of files on a host with the given content, and makes their directories. Each
    file is replaced atomically.
  - The roles of this collection use it for the few files that they keep on a host. So these take
    one task, and check mode also shows files whose directory is not there yet.
author:
  - flatnet.overlay authors (@flatnet)
extends_documentation_fragment:
  - flatnet.overlay.attributes
options:
  files:
    description: The files.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path of the file.
        type: str
        required: true
      content:
        description: Text that the file is to have, nothing added.
        type: str
        default: ''
      mode:
        description: Permissions, in octal.
        type: str
        default: '0644'
      state:
        description: V(absent) removes the file. Its directory stays.
        type: str
        choices: [present, absent]
        default: present
"""

EXAMPLES = r"""
- name: Write the file that container runtimes read their subnet from
  flatnet.overlay.host_files:
    files:
      - path: /run/flannel/subnet.env
        content: "{{ subnet.subnet_env }}"

- name: Remove it
  flatnet.overlay.host_files:
    files:
      - path: /run/flannel/subnet.env
        state: absent
"""

RETURN = r"""
paths:
  description: The files that were written or removed.
  type: list
  elements: str
  returned: success
"""

import os
import stat

from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.errors import InvalidInput
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.host_files import (
    remove,
    save,
)
from ansible_collections.flatnet.overlay.plugins.module_utils._flatnet.task.module import (
    create,
    reporting,
)

ARGUMENTS = {
    "files": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "path": {"type": "str", "required": True},
            "content": {"type": "str", "default": ""},
            "mode": {"type": "str", "default": "0644"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
    },
}


def check(files):
    """Each file's mode as a number; errors name the option."""
    modes = []
    for index, each in enumerate(files):
        if not os.path.isabs(each["path"]):
            raise InvalidInput("files[%d].path: %s is not an absolute path" % (index, each["path"]))
        try:
            modes.append(int(each["mode"], 8))
        except ValueError:
            raise InvalidInput("files[%d].mode: %s is not octal" % (index, each["mode"])) from None
    return modes


def read(path):
    """Content and permissions; None if there is no such file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(), stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidInput("%s cannot be read: %s" % (path, error.strerror)) from None


def converge(module, each, mode):
    """Make one file as wanted; the parts of its diff, None if nothing changed."""
    path, content = each["path"], each["content"]
    before = read(path)
    if each["state"] == "absent":
        if before is None:
            return None
        if not module.check_mode:
            remove(path)
        return {"before": before[0], "after": "", "before_header": path, "after_header": path}
    if before == (content, mode):
        return None
    if not module.check_mode:
        save(module, path, content, mode)
    return {
        "before": before[0] if before else "",
        "after": content,
        "before_header": "%s (mode %04o)" % (path, before[1]) if before else path,
        "after_header": "%s (mode %04o)" % (path, mode),
    }


def main():
    module = create(ARGUMENTS, state=False)
    files = module.params["files"]
    with reporting(module):
        modes = check(files)
        changes = {}
        try:
            for each, mode in zip(files, modes):
                change = converge(module, each, mode)
                if change:
                    changes[each["path"]] = change
        except OSError as error:
            module.fail_json(msg="%s: %s" % (error.filename, error.strerror))
        module.exit_json(changed=bool(changes), paths=list(changes), diff=list(changes.values()))


if __name__ == "__main__":
    main()
