# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine under QEMU that boots a kernel, runs a job and powers off; emulated, so that it runs anywhere."""

import contextlib
import lzma
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.kernels.archive import Kernel
from tests.system import roots

# Without what the job needs: the disk, the file system, TLS in the kernel.
_MODULES = ('virtio_pci', 'virtio_blk', 'ext4', 'tls')
_MEMORY = '2G'
# Most of it is a hole in the file.
_ROOT_SIZE = '4G'
_DISKS = ('root', 'job', 'results')
_RESULTS_SIZE = 64 << 20
# Seconds, the most that the kernel takes; after twice as long it says that a CPU is stuck ("BUG: soft lockup"). A
# machine that is busy with something else may not run the guest for more than the usual 20 s.
_WATCHDOG_S = 60
# What the kernel prints when something is wrong inside it.
_COMPLAINTS = ('WARNING: ', 'BUG: ', 'Oops: ', 'INFO: task ', 'possible deadlock', 'general protection fault')
_INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules); do /bin/busybox insmod "$module"; done
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox mkdir -p /root/usr/lib/modules
/bin/busybox cp -a /lib/modules/. /root/usr/lib/modules/
/bin/busybox cp /job.service /root/etc/systemd/system/
/bin/busybox mkdir -p /root/etc/systemd/system/multi-user.target.wants
# What the root's packages would start by themselves.
/bin/busybox rm -f /root/etc/systemd/system/*.wants/*
/bin/busybox ln -s ../job.service /root/etc/systemd/system/multi-user.target.wants/
/bin/busybox umount /dev
exec /bin/busybox switch_root /root /sbin/init
"""
_UNIT = """\
[Unit]
Wants=dbus.service
After=dbus.service systemd-tmpfiles-setup.service
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=oneshot
RuntimeDirectory=job
ExecStart=/bin/tar --extract --directory=/run/job --file=/dev/vdb
ExecStart=/bin/sh -c 'cd /run/job && exec ./run >/dev/ttyS1 2>&1'
ExecStopPost=/bin/mkdir -p /run/results
ExecStopPost=/bin/sh -c 'echo "$EXIT_STATUS" >/run/results/status; dmesg >/run/results/dmesg'
ExecStopPost=/bin/tar --create --directory=/run/results --file=/dev/vdc .
ExecStopPost=/bin/sync
"""


class Outcome(Enum):
    """How a job ended, the worst first."""

    PANIC = 'panic'
    HANG = 'hang'
    NO_RESULT = 'no result'
    WARNING = 'warning'
    FAILED = 'failed'
    PASSED = 'passed'


@dataclass(frozen=True)
class Report:
    """outcome; said: what the job printed; console: what the kernel printed; files: what the job left, by name."""

    outcome: Outcome
    said: str
    console: str
    files: dict[str, str]


def run(
    kernel: Kernel,
    job: Path,
    seconds: float,
    kind: str = '',
    more: tuple[str, ...] = (),
    modules: tuple[str, ...] = (),
) -> Report:
    """Boot the kernel on Debian 12 and run the program `run` of the directory `job`, for so long at most.

    kind, more: a root with more packages, see `roots.root`. modules: what the job may load, beside _MODULES.
    """
    with tempfile.TemporaryDirectory(prefix='sockaccel-guest-', dir='/var/tmp') as name:
        directory = Path(name)
        initramfs = _initramfs(kernel, directory, modules)
        with tarfile.open(directory / 'job', 'w') as tar:
            tar.add(job, '.')
        with (directory / 'results').open('wb') as results:
            results.truncate(_RESULTS_SIZE)
        (directory / 'root').symlink_to(_root_image(kind, more))
        for serial in ('console', 'said'):
            (directory / serial).touch()
        hung = False
        try:
            subprocess.run(
                _command(kernel, initramfs, directory), check=True, timeout=seconds, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired:
            hung = True
        console = (directory / 'console').read_text(errors='replace')
        files = _files(directory / 'results')
        said = (directory / 'said').read_text(errors='replace').replace('\r\n', '\n')
        return Report(_outcome(console, files, hung=hung), said, console, files)


def _outcome(console: str, files: dict[str, str], *, hung: bool) -> Outcome:
    if 'Kernel panic' in console:
        return Outcome.PANIC
    if hung:
        return Outcome.HANG
    if 'status' not in files:
        return Outcome.NO_RESULT
    if complaints(console) or complaints(files['dmesg']):
        return Outcome.WARNING
    return Outcome.PASSED if files['status'].strip() == '0' else Outcome.FAILED


def complaints(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if any(word in line for word in _COMPLAINTS)]


def _command(kernel: Kernel, initramfs: Path, directory: Path) -> list[str]:
    command = [
        # Not even a test run that is killed leaves it behind.
        'setpriv', '--pdeathsig=KILL', '--', 'qemu-system-x86_64',
        '-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', '2', '-m', _MEMORY,
        '-display', 'none', '-nodefaults', '-no-user-config', '-no-reboot',
        '-serial', f'file:{directory}/console', '-serial', f'file:{directory}/said',
        '-kernel', str(kernel.image), '-initrd', str(initramfs),
        '-append', 'console=ttyS0 panic=-1 systemd.show_status=no systemd.log_level=warning mitigations=off '
        f'watchdog_thresh={_WATCHDOG_S}',
    ]  # fmt: skip
    for disk in _DISKS:
        snapshot = 'on' if disk == 'root' else 'off'
        command += ['-drive', f'file={directory / disk},format=raw,if=virtio,snapshot={snapshot}']
    return command


def _root_image(kind: str, more: tuple[str, ...]) -> Path:
    """Debian 12 as an ext4 image, made once for each root."""
    root = roots.root(roots.RELEASES[0], kind, more)
    image = root.with_suffix('.ext4')
    if not image.exists():
        unfinished = root.with_suffix('.ext4.unfinished')
        subprocess.run(['mke2fs', '-q', '-F', '-t', 'ext4', '-d', root, unfinished, _ROOT_SIZE], check=True)
        unfinished.rename(image)
    return image


def _initramfs(kernel: Kernel, directory: Path, more: tuple[str, ...]) -> Path:
    """A busybox that loads what the disk needs, and changes over to it. more: modules that it copies there too."""
    tree = directory / 'initramfs'
    for name in ('bin', 'dev', 'root', 'lib/modules'):
        (tree / name).mkdir(parents=True)
    shutil.copy('/bin/busybox', tree / 'bin' / 'busybox')
    (tree / 'init').write_text(_INIT)
    (tree / 'init').chmod(0o755)
    (tree / 'job.service').write_text(_UNIT)
    modules = tree / 'lib' / 'modules' / kernel.release
    for source in _with_dependencies(kernel, (*_MODULES, *more)):
        target = modules / 'kernel' / source.name.removesuffix('.xz')
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(lzma.decompress(source.read_bytes()) if source.suffix == '.xz' else source.read_bytes())
    loaded = _with_dependencies(kernel, _MODULES[:-1])
    order = [f'/lib/modules/{kernel.release}/kernel/{path.name.removesuffix(".xz")}' for path in loaded]
    (tree / 'modules').write_text('\n'.join(order) + '\n')
    for name in ('modules.builtin', 'modules.order'):
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(kernel.modules / name, modules / name)
    subprocess.run(['depmod', '--basedir', tree, kernel.release], check=True)
    packed = directory / 'initramfs.cpio'
    names = b'\0'.join(str(path.relative_to(tree)).encode() for path in sorted(tree.rglob('*')))
    with packed.open('wb') as output:
        subprocess.run(
            ['cpio', '--quiet', '--null', '--create', '--format=newc'],
            cwd=tree,
            input=names,
            stdout=output,
            check=True,
        )
    return packed


def _with_dependencies(kernel: Kernel, names: tuple[str, ...]) -> list[Path]:
    """The files of modules and of what they need, in an order in which they load; not what is built in."""
    available = {path.name.partition('.ko')[0].replace('-', '_'): path for path in kernel.modules.rglob('*.ko*')}
    found: list[Path] = []

    def add(name: str) -> None:
        path = available.get(name.replace('-', '_'))
        if path and path not in found:
            for needed in _needs(path):
                add(needed)
            found.append(path)

    for name in names:
        add(name)
    return found


def _needs(module: Path) -> list[str]:
    printed = subprocess.run(['modinfo', '--field', 'depends', module], check=True, capture_output=True, text=True)
    return [name for name in printed.stdout.strip().split(',') if name]


def _files(results: Path) -> dict[str, str]:
    """What the job left in /run/results; nothing if it never came to that."""
    files = {}
    with contextlib.suppress(tarfile.ReadError), tarfile.open(results) as tar:
        for member in tar:
            if (data := tar.extractfile(member)) is not None:
                files[member.name.removeprefix('./')] = data.read().decode(errors='replace')
    return files
