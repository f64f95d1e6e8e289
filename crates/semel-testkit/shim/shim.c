/* Between a program and the C library (LD_PRELOAD): notes every change of the files below SEMEL_SHIM_FOLDER, in order,
 * in SEMEL_SHIM_TRACE, and what is written to standard output between them; moves the clock, fills the disk and fails
 * syncs as SEMEL_SHIM_CONTROL says. src/shim.rs has the format of both files.
 *
 * One change at a time, syncs too, so that the order in the trace is the order on the disk. Files ending in -shm are
 * left out: SQLite maps them and makes them anew.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FDS 4096
enum { CLOCK_STEP_NS, DISK_FULL, SYNCS_FAIL, NO_GROWTH, CONTROLS };

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static int trace = -1;
static const char *folder;
static volatile int64_t *control;
static char ours[FDS];

__attribute__((constructor)) static void begin(void) {
    folder = getenv("SEMEL_SHIM_FOLDER");
    const char *path = getenv("SEMEL_SHIM_TRACE");
    if (path) trace = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    path = getenv("SEMEL_SHIM_CONTROL");
    if (path) {
        int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
        void *at = mmap(NULL, CONTROLS * sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
        if (at != MAP_FAILED) control = at;
        syscall(SYS_close, fd);
    }
}

static int64_t controlled(int which) { return control ? control[which] : 0; }

static int below(const char *path) {
    size_t length = path ? strlen(path) : 0;
    if (!folder || !length) return 0;
    char here[4096];
    const char *from = path[0] == '/' ? path : getcwd(here, sizeof here);
    if (!from || strncmp(from, folder, strlen(folder)) != 0) return 0;
    return length < 4 || strcmp(path + length - 4, "-shm") != 0;
}

static int is_ours(int fd) { return fd >= 0 && fd < FDS && ours[fd]; }

static int no_room(int fd, off_t end) {
    struct stat now;
    if (controlled(DISK_FULL)) return 1;
    return controlled(NO_GROWTH) && syscall(SYS_fstat, fd, &now) == 0 && end > now.st_size;
}

/* kind, descriptor, number, length of what follows; then that. */
static void note(char kind, int32_t fd, int64_t number, const void *data, uint32_t length) {
    if (trace < 0) return;
    char head[17];
    head[0] = kind;
    memcpy(head + 1, &fd, 4);
    memcpy(head + 5, &number, 8);
    memcpy(head + 13, &length, 4);
    struct iovec parts[2] = {{head, sizeof head}, {(void *)data, length}};
    if (syscall(SYS_writev, trace, parts, 2) < 0) abort();
}

#define LOCK pthread_mutex_lock(&one_at_a_time)
#define UNLOCK do { int kept = errno; pthread_mutex_unlock(&one_at_a_time); errno = kept; } while (0)

static int opening(int at, const char *path, int flags, mode_t mode) {
    if (!below(path)) return syscall(SYS_openat, at, path, flags, mode);
    LOCK;
    int fd = syscall(SYS_openat, at, path, flags, mode);
    if (fd >= 0 && fd < FDS) {
        ours[fd] = 1;
        note('O', fd, (flags & O_CREAT ? 1 : 0) | (flags & O_TRUNC ? 2 : 0), path, strlen(path));
    }
    UNLOCK;
    return fd;
}

#define MODE(flags) ({ mode_t m = 0; if ((flags) & (O_CREAT | O_TMPFILE)) { va_list l; va_start(l, flags); m = va_arg(l, mode_t); va_end(l); } m; })
int open(const char *path, int flags, ...) { mode_t m = MODE(flags); return opening(AT_FDCWD, path, flags, m); }
int open64(const char *path, int flags, ...) { mode_t m = MODE(flags); return opening(AT_FDCWD, path, flags | O_LARGEFILE, m); }
int openat(int at, const char *path, int flags, ...) { mode_t m = MODE(flags); return opening(at, path, flags, m); }
int openat64(int at, const char *path, int flags, ...) { mode_t m = MODE(flags); return opening(at, path, flags | O_LARGEFILE, m); }

int close(int fd) {
    if (!is_ours(fd)) return syscall(SYS_close, fd);
    LOCK;
    ours[fd] = 0;
    int done = syscall(SYS_close, fd);
    UNLOCK;
    return done;
}

ssize_t write(int fd, const void *data, size_t length) {
    if (!is_ours(fd) && !(fd == 1 && folder)) return syscall(SYS_write, fd, data, length);
    int64_t at = fd == 1 ? 0 : lseek(fd, 0, SEEK_CUR);
    if (is_ours(fd) && no_room(fd, at + length)) { errno = ENOSPC; return -1; }
    LOCK;
    if (fd != 1) at = lseek(fd, 0, SEEK_CUR);
    ssize_t done = syscall(SYS_write, fd, data, length);
    if (done > 0) note(fd == 1 ? 'S' : 'W', fd, at, data, done);
    UNLOCK;
    return done;
}

static ssize_t writing(int fd, const void *data, size_t length, off_t at) {
    if (!is_ours(fd)) return syscall(SYS_pwrite64, fd, data, length, at);
    if (no_room(fd, at + length)) { errno = ENOSPC; return -1; }
    LOCK;
    ssize_t done = syscall(SYS_pwrite64, fd, data, length, at);
    if (done > 0) note('W', fd, at, data, done);
    UNLOCK;
    return done;
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t at) { return writing(fd, data, length, at); }
ssize_t pwrite64(int fd, const void *data, size_t length, off_t at) { return writing(fd, data, length, at); }

static ssize_t writing_parts(int fd, const struct iovec *parts, int count, off_t at) {
    ssize_t all = 0;
    for (int nth = 0; nth < count; nth++) {
        ssize_t done = writing(fd, parts[nth].iov_base, parts[nth].iov_len, at + all);
        if (done < 0) return all ? all : -1;
        all += done;
        if ((size_t)done < parts[nth].iov_len) break;
    }
    return all;
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { return writing_parts(fd, parts, count, at); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t at) { return writing_parts(fd, parts, count, at); }

static int making_room(int fd, int mode, off_t at, off_t length) {
    if (is_ours(fd) && no_room(fd, at + length)) { errno = ENOSPC; return -1; }
    return syscall(SYS_fallocate, fd, mode, at, length);
}
int fallocate(int fd, int mode, off_t at, off_t length) { return making_room(fd, mode, at, length); }
int fallocate64(int fd, int mode, off_t at, off_t length) { return making_room(fd, mode, at, length); }
int posix_fallocate(int fd, off_t at, off_t length) { return making_room(fd, 0, at, length) == 0 ? 0 : errno; }
int posix_fallocate64(int fd, off_t at, off_t length) { return making_room(fd, 0, at, length) == 0 ? 0 : errno; }

static int cutting(int fd, off_t length) {
    if (!is_ours(fd)) return syscall(SYS_ftruncate, fd, length);
    LOCK;
    int done = syscall(SYS_ftruncate, fd, length);
    if (done == 0) note('T', fd, length, NULL, 0);
    UNLOCK;
    return done;
}
int ftruncate(int fd, off_t length) { return cutting(fd, length); }
int ftruncate64(int fd, off_t length) { return cutting(fd, length); }

static int syncing(int fd, long call) {
    if (!is_ours(fd)) return syscall(call, fd);
    LOCK;
    int done;
    if (controlled(SYNCS_FAIL)) {
        note('F', fd, 0, NULL, 0);
        errno = EIO;
        done = -1;
    } else {
        done = syscall(call, fd);
        if (done == 0) note('Y', fd, 0, NULL, 0);
    }
    UNLOCK;
    return done;
}
int fsync(int fd) { return syncing(fd, SYS_fsync); }
int fdatasync(int fd) { return syncing(fd, SYS_fdatasync); }

int rename(const char *from, const char *to) {
    if (!below(from) && !below(to)) return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    char both[8192];
    size_t first = strlen(from), second = strlen(to);
    if (first + second + 1 > sizeof both) abort();
    memcpy(both, from, first + 1);
    memcpy(both + first + 1, to, second);
    LOCK;
    int done = syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (done == 0) note('R', -1, 0, both, first + 1 + second);
    UNLOCK;
    return done;
}

int unlink(const char *path) {
    if (!below(path)) return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    LOCK;
    int done = syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (done == 0) note('U', -1, 0, path, strlen(path));
    UNLOCK;
    return done;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int done = syscall(SYS_clock_gettime, clock, at);
    int64_t step = controlled(CLOCK_STEP_NS);
    if (done == 0 && step && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t ns = at->tv_sec * 1000000000LL + at->tv_nsec + step;
        at->tv_sec = ns / 1000000000LL;
        at->tv_nsec = ns % 1000000000LL;
    }
    return done;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    (void)zone;
    struct timespec now;
    int done = clock_gettime(CLOCK_REALTIME, &now);
    if (done == 0) { at->tv_sec = now.tv_sec; at->tv_usec = now.tv_nsec / 1000; }
    return done;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
