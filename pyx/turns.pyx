"""Whose turn it is to receive the next request: the worker that has answered the last one goes on, and looks for it.

llfuse's workers all wait in read(2), and the kernel wakes them in turn: each request then begins with a processor that
sleeps, a thread whose caches are cold, and the GIL in other hands. Here one worker receives, and the others sleep until
it says that its handler may wait (hand_over()). It looks for a request again and again for a moment before it goes to
sleep, as long as requests come in quick succession: waking a sleeping processor costs more than many an answer. Where
somebody else wants the processor, it sleeps at once: who has yielded waits for longer than who is woken.

It also tells handlers what llfuse keeps from them: reads of what was never opened, because an open was answered with
ENOSYS and the kernel asks no more, come with the inode for a handle; who has sent the request; and whether setuid and
setgid go with it.

The function below stands before libfuse's own of the same name, which it calls: the dynamic linker finds it first where
this module has been loaded with RTLD_GLOBAL before llfuse. Else nothing changes. No Python object, no GIL.
"""

from libc.errno cimport EINTR, EIO, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.dlfcn cimport RTLD_NOW, dlopen, dlsym
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from crfs._native.answers cimport answer
from crfs._native.protocol cimport (
    FATTR_KILL_SUIDGID,
    FUSE_READ,
    FUSE_READDIR,
    FUSE_SETATTR,
    FUSE_WRITE,
    FUSE_WRITE_KILL_SUIDGID,
    fuse_in_header,
    fuse_setattr_in,
    fuse_write_in,
)


cdef extern from "<semaphore.h>" nogil:
    ctypedef struct sem_t:
        pass
    int sem_init(sem_t *sem, int shared, unsigned int value)
    int sem_wait(sem_t *sem)
    int sem_post(sem_t *sem)

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int POLLIN
    int poll(pollfd *fds, unsigned long count, int timeout)

cdef extern from "<dlfcn.h>" nogil:
    int RTLD_NOLOAD

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from *:
    """
    static thread_local bool turn_is_mine = false;
    static thread_local uint32_t request_pid = 0;
    static thread_local bool request_takes_special = false;
    """
    bint turn_is_mine
    uint32_t request_pid
    bint request_takes_special

# fuse_common.h
cdef struct fuse_buf:
    size_t size
    int flags
    void *mem

# what begins a request to read
cdef struct read_in:
    fuse_in_header header
    uint64_t fh

cdef enum:
    FUSE_BUF_IS_FD = 1 << 1

ctypedef int (*Receive)(void *session, void *buf, void **channel) noexcept nogil
ctypedef int (*Descriptor)(void *channel) noexcept nogil
ctypedef int (*Exited)(void *session) noexcept nogil

# how long to look for a request; and how soon one has to come for another look to be worth it
cdef int64_t LOOK_NS = 50_000
cdef int64_t SOON_NS = 200_000
# to yield takes no longer if nobody else wants the processor; and how long to believe that somebody does: to ask costs
# what he runs for, so that it is asked more seldom the more often that was so
cdef int64_t ALONE_NS = 20_000
cdef int64_t CROWDED_NS = 10_000_000
cdef int64_t CROWDED_MAX_NS = 1_000_000_000

cdef sem_t turn
sem_init(&turn, 0, 1)
cdef Receive receive = NULL
cdef Descriptor descriptor = NULL
cdef Exited exited = NULL
cdef int64_t waited_ns = SOON_NS
cdef int64_t crowded_until_ns = 0
cdef int64_t crowded_ns = CROWDED_NS
cdef bint is_called = False
cdef bint is_over = False


def end():
    """Once the session is over: nobody waits for a turn any more. Any thread.

    llfuse tells each worker by a signal, which may come just before the worker begins to wait: it would never end.
    """
    global is_over
    is_over = True
    sem_post(&turn)


def hand_over():
    """Before a handler may wait: let another worker receive. Nothing is done on a thread that doesn't."""
    give_up()


def names_inodes() -> bool:
    """Whether reads of what was not opened come with the inode for a handle: this module's function is called."""
    return is_called


def requester() -> int:
    """The thread whose request is handled on this one; 0 where it can't be seen from here."""
    return request_pid


def takes_special() -> bool:
    """Whether setuid and setgid go with the request that is handled on this thread, as the kernel says."""
    return request_takes_special


cdef bint is_to_take_special(const fuse_in_header *head, size_t size) noexcept nogil:
    cdef const void *body = head + 1
    if head.opcode == FUSE_SETATTR and size >= sizeof(fuse_in_header) + sizeof(fuse_setattr_in):
        return (<const fuse_setattr_in *>body).valid & FATTR_KILL_SUIDGID != 0
    if head.opcode == FUSE_WRITE and size >= sizeof(fuse_in_header) + sizeof(fuse_write_in):
        return (<const fuse_write_in *>body).write_flags & FUSE_WRITE_KILL_SUIDGID != 0
    return False


cdef void understand(fuse_buf *buf) noexcept nogil:
    """Note who asks, and what for; and have a read know what is read."""
    global request_pid, request_takes_special
    cdef read_in *request = <read_in *>buf.mem
    if buf.flags & FUSE_BUF_IS_FD or buf.size < sizeof(fuse_in_header):
        request_pid, request_takes_special = 0, False
        return
    request_pid = request.header.pid
    request_takes_special = is_to_take_special(&request.header, buf.size)
    if buf.size >= sizeof(read_in) and request.fh == 0 and request.header.opcode in (FUSE_READ, FUSE_READDIR):
        request.fh = request.header.nodeid


cdef void give_up() noexcept nogil:
    global turn_is_mine
    if turn_is_mine:
        turn_is_mine = False
        sem_post(&turn)


cdef int64_t now_ns() noexcept nogil:
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return time.tv_sec * <int64_t>1_000_000_000 + time.tv_nsec


cdef bint find_libfuse() noexcept nogil:
    """libfuse's own functions: it is loaded, since it is llfuse that calls."""
    global receive, descriptor, exited
    cdef void *library = dlopen("libfuse.so.2", RTLD_NOW | RTLD_NOLOAD)
    if library == NULL:
        return False
    descriptor = <Descriptor>dlsym(library, "fuse_chan_fd")
    exited = <Exited>dlsym(library, "fuse_session_exited")
    receive = <Receive>dlsym(library, "fuse_session_receive_buf")
    return receive != NULL and descriptor != NULL and exited != NULL


cdef void look(int fd, int64_t begun) noexcept nogil:
    """Until there is a request, or for a moment. Who has run while it yielded may have been who asks."""
    cdef int64_t before, now = begun
    cdef pollfd asked
    asked.fd, asked.events = fd, <short>POLLIN
    while poll(&asked, 1, 0) == 0 and now - begun < LOOK_NS:
        before = now_ns()
        sched_yield()
        now = now_ns()
        if now - before > ALONE_NS and poll(&asked, 1, 0) == 0:
            note_crowd(now)
            return


cdef void note_crowd(int64_t now) noexcept nogil:
    global crowded_until_ns, crowded_ns
    crowded_ns = min(2 * crowded_ns, CROWDED_MAX_NS) if now - crowded_until_ns < 4 * crowded_ns else CROWDED_NS
    crowded_until_ns = now + crowded_ns


cdef int receive_one(void *session, fuse_buf *buf, void **channel) noexcept nogil:
    """The next request; like libfuse's function."""
    global waited_ns
    cdef int64_t begun = now_ns()
    if waited_ns < SOON_NS and begun > crowded_until_ns:
        look(descriptor(channel[0]), begun)
    # the signal that was to interrupt may have come while it looked
    cdef int received = receive(session, buf, channel) if not exited(session) else -EINTR
    waited_ns = now_ns() - begun
    return received


cdef public int fuse_session_receive_buf(void *session, void *buf, void **channel) noexcept nogil:
    """Called by each worker for each request. Signals, and the end of the connection, interrupt all of them.

    What can be answered at once is, and the next request received.
    """
    global turn_is_mine, is_called
    cdef fuse_buf *filled = <fuse_buf *>buf
    cdef size_t size = filled.size
    if not turn_is_mine:
        if sem_wait(&turn) != 0:
            return -errno
        if is_over:
            # the next one is to hear of it too
            sem_post(&turn)
            return -EINTR
        turn_is_mine = True
    if receive == NULL and not find_libfuse():
        give_up()
        return -EIO
    cdef int received = receive_one(session, filled, channel)
    while received > 0 and not filled.flags & FUSE_BUF_IS_FD and answer(
        descriptor(channel[0]), <char *>filled.mem, <size_t>received
    ):
        filled.size = size
        received = receive_one(session, filled, channel)
    if received <= 0:
        give_up()
        return received
    is_called = True
    understand(filled)
    return received
