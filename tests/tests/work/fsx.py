# Random work on one file, compared with what it should hold: reads, writes, maps, truncates, holes, ranges copied.
import ctypes, mmap, os, random, sys, time

path, seconds, seed = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
KEEP, PUNCH, ZERO = 1, 2, 16
MOST = 1 << 20
page = mmap.PAGESIZE
rnd = random.Random(seed)
fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
model = bytearray(os.pread(fd, MOST * 2, 0))
end, rounds, last = time.monotonic() + seconds, 0, ""

def expect(what, got, start):
    wanted = model[start : start + len(got)]
    assert got == wanted, f"seed {seed} round {rounds}: {what} at {start}, {len(got)} bytes; before: {last}"

def place():
    start = rnd.randrange(MOST)
    return start, rnd.randrange(1, rnd.choice((100, 5000, 70000)))

def grow(size):
    if len(model) < size:
        model.extend(bytes(size - len(model)))

while time.monotonic() < end:
    rounds += 1
    start, length = place()
    what = rnd.randrange(14)
    if what < 3:
        data = rnd.randbytes(length)
        assert os.pwrite(fd, data, start) == length
        grow(start + length)
        model[start : start + length] = data
        last = f"write {start} {length}"
    elif what < 6:
        got = os.pread(fd, length, start)
        assert len(got) == max(0, min(length, len(model) - start)), f"seed {seed} round {rounds}: short; {last}"
        expect("read", got, start)
    elif what == 6:
        size = rnd.choice((start, start // page * page))
        os.ftruncate(fd, size)
        del model[size:]
        grow(size)
        last = f"truncate {size}"
    elif what in (7, 8) and len(model) > 0:
        start = rnd.randrange(len(model)) // page * page
        length = min(length, len(model) - start)
        with mmap.mmap(fd, length, offset=start) as mapped:
            expect("map", mapped[:], start)
            if what == 8:
                data = rnd.randbytes(length)
                mapped[:] = data
                model[start : start + length] = data
                if rnd.random() < 0.3:
                    mapped.flush()
                last = f"mapped write {start} {length}"
    elif what == 9:
        mode = rnd.choice((0, KEEP, PUNCH | KEEP, ZERO, ZERO | KEEP))
        if libc.fallocate(fd, mode, start, length) != 0:
            assert ctypes.get_errno() in (95,), os.strerror(ctypes.get_errno())
            continue
        if not mode & KEEP:
            grow(start + length)
        if mode & (PUNCH | ZERO):
            stop = min(start + length, len(model))
            if start < stop:
                model[start:stop] = bytes(stop - start)
        last = f"fallocate {mode} {start} {length}"
    elif what == 10 and len(model) > 0:
        to = rnd.randrange(MOST)
        length = max(0, min(length, len(model) - start, abs(to - start)))
        done = 0
        while done < length:
            copied = os.copy_file_range(fd, fd, length - done, start + done, to + done)
            assert copied > 0
            done += copied
        grow(to + length if length else 0)
        model[to : to + length] = model[start : start + length]
        last = f"copy {start} to {to} {length}"
    elif what == 11:
        os.close(fd)
        fd = os.open(path, os.O_RDWR | (os.O_APPEND if rnd.random() < 0.2 else 0))
        if os.get_blocking(fd) and (os.O_APPEND & __import__("fcntl").fcntl(fd, 3)):
            data = rnd.randbytes(length)
            if len(model) + length < MOST * 2:
                assert os.write(fd, data) == length
                model += data
            os.close(fd)
            fd = os.open(path, os.O_RDWR)
        last = "reopened"
    elif what == 12:
        os.fsync(fd) if rnd.random() < 0.2 else os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    else:
        assert os.fstat(fd).st_size == len(model), f"seed {seed} round {rounds}: size; {last}"
        other = os.open(path, os.O_RDONLY)
        expect("another reader", os.pread(other, MOST * 2, 0), 0)
        os.close(other)
os.close(fd)
with open(path, "rb") as file:
    expect("the end", file.read(), 0)
assert os.stat(path).st_size == len(model)
print(rounds, "rounds")
