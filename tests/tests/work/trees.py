# Several processes make, move, link and remove things in one tree; what each finds is checked, what is left is compared by others.
import errno, os, random, sys, time

root, seconds, seed = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
# What may happen when others work at the same names.
USUAL = {errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.EXDEV, errno.EINVAL, errno.ELOOP, errno.ENODATA, errno.EPERM, errno.ESTALE, errno.EBUSY, errno.ESPIPE, errno.EAGAIN, errno.EPIPE}

def work(number):
    rnd = random.Random(seed * 100 + number)
    end, done = time.monotonic() + seconds, 0
    name = lambda: rnd.choice(("a", "b", "c", "d", "long-" * 20, "f%d" % rnd.randrange(9)))
    path = lambda: os.path.join(root, *(name() for _ in range(rnd.randrange(1, 5))))
    def write(p, flags):
        fd = os.open(p, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | flags, 0o644)
        data = rnd.randbytes(rnd.randrange(9000))
        os.write(fd, data)
        if rnd.random() < 0.1:
            os.fsync(fd)
        os.close(fd)
    def exchange():
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.renameat2(-100, path().encode(), -100, path().encode(), rnd.choice((1, 2))) != 0:
            raise OSError(ctypes.get_errno(), "renameat2")
    def unlinked():
        p, mine = path(), rnd.random() < 0.5
        if mine:
            p = os.path.join(os.path.dirname(p), "of-%d" % number)
        fd = os.open(p, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        try:
            os.unlink(p)
        finally:
            # What is open stays, whatever became of its name; but others who had opened it too may write to it.
            os.pwrite(fd, b"open", 5000)
            found = os.pread(fd, 4, 5000)
            assert not mine or found == b"open", found
            os.fstat(fd)
            os.close(fd)
    def walk():
        for dir, dirs, files in os.walk(path()):
            for one in dirs + files:
                try:
                    os.lstat(os.path.join(dir, one))
                except OSError as error:
                    assert error.errno in USUAL, error
    ops = [
        lambda: write(path(), os.O_CREAT), lambda: write(path(), os.O_CREAT | os.O_TRUNC), lambda: write(path(), os.O_APPEND),
        lambda: os.mkdir(path()), lambda: os.mkdir(path()), lambda: os.unlink(path()), lambda: os.rmdir(path()),
        lambda: os.rename(path(), path()), lambda: os.rename(path(), path()), exchange, lambda: os.link(path(), path(), follow_symlinks=False),
        lambda: os.symlink(name(), path()), lambda: os.mkfifo(path()), lambda: os.chmod(path(), rnd.randrange(0o1000) | 0o700),
        lambda: os.chown(path(), rnd.randrange(9), rnd.randrange(9), follow_symlinks=False), lambda: os.truncate(path(), rnd.randrange(9000)),
        lambda: os.setxattr(path(), "user.k%d" % rnd.randrange(3), rnd.randbytes(9), follow_symlinks=False),
        lambda: os.removexattr(path(), "user.k%d" % rnd.randrange(3), follow_symlinks=False),
        lambda: os.utime(path(), (5, rnd.randrange(1 << 30)), follow_symlinks=False), lambda: os.listdir(path()), unlinked, walk,
        lambda: os.stat(path()), lambda: os.statvfs(root),
    ]
    while time.monotonic() < end:
        op = rnd.choice(ops)
        # A pipe would wait for its other end.
        try:
            done += 1
            op()
        except OSError as error:
            if error.errno not in USUAL and error.errno != errno.ENXIO:
                print("seed", seed, "process", number, "after", done, error, file=sys.stderr)
                os._exit(1)
    os._exit(0)

children = []
for number in range(4):
    pid = os.fork()
    if pid == 0:
        try:
            work(number)
        except BaseException as error:
            print("seed", seed, "process", number, repr(error), file=sys.stderr)
            os._exit(1)
    children.append(pid)
assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 4
