/* A disk that fails: loaded before the C library (LD_PRELOAD), it makes the n-th call that changes a file under
 * one folder fail, be cut short, or kill the process; or the n-th that reads one fail. Python's own calls and
 * SQLite's go through here alike. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { SHORT = -1, KILL = -2 };

static char folder[4096];
static long left = -1;    /* calls until it fails; negative: never */
static int what;          /* an errno, or SHORT, or KILL */
static int stays;         /* whether all later calls fail, too */
static int reads;         /* whether it is reads that fail, and not changes */
static long calls, fired;

void faults_arm(const char *path, long n, int error, int sticky, int of_reads) {
    snprintf(folder, sizeof folder, "%s", path);
    left = n, what = error, stays = sticky, reads = of_reads, calls = 0, fired = 0;
}

long faults_calls(void) { return calls; }

long faults_fired(void) { return fired; }

static int is_ours(const char *path) {
    return folder[0] && path && strncmp(path, folder, strlen(folder)) == 0;
}

static int is_ours_open(int descriptor) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_ours(path);
}

/* Whether this call is to fail. */
static int fails(int is_read) {
    if (left < 0 || is_read != reads) return 0;
    if (++calls != left && !(stays && fired)) return 0;
    fired++;
    if (what == KILL) kill(getpid(), SIGKILL);
    return 1;
}

static int refused(void) {
    errno = what == SHORT ? EINTR : what;
    return -1;
}

#define NEXT(name) static __typeof__(&name) next; if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define WRITES(name, ARGUMENTS, CALL, CUT)                                     \
    ssize_t name ARGUMENTS {                                                   \
        NEXT(name);                                                            \
        if (is_ours_open(fd) && fails(0)) {                                    \
            if (what == SHORT && count > 1) return CUT;                        \
            if (what == SHORT) return CALL;                                    \
            return refused();                                                  \
        }                                                                      \
        return CALL;                                                           \
    }

WRITES(write, (int fd, const void *data, size_t count), next(fd, data, count), next(fd, data, count / 2))
WRITES(pwrite, (int fd, const void *data, size_t count, off_t at), next(fd, data, count, at),
       next(fd, data, count / 2, at))
WRITES(pwrite64, (int fd, const void *data, size_t count, off64_t at), next(fd, data, count, at),
       next(fd, data, count / 2, at))

#define READS(name, ARGUMENTS, CALL)                                           \
    ssize_t name ARGUMENTS {                                                   \
        NEXT(name);                                                            \
        if (is_ours_open(fd) && fails(1)) return refused();                    \
        return CALL;                                                           \
    }

READS(read, (int fd, void *data, size_t count), next(fd, data, count))
READS(pread, (int fd, void *data, size_t count, off_t at), next(fd, data, count, at))
READS(pread64, (int fd, void *data, size_t count, off64_t at), next(fd, data, count, at))

/* What cannot be cut short happens as it should. */
#define CHANGES(name, OURS, ARGUMENTS, CALL)                                   \
    int name ARGUMENTS {                                                       \
        NEXT(name);                                                            \
        if (OURS && fails(0) && what != SHORT) return refused();               \
        return CALL;                                                           \
    }

CHANGES(fsync, is_ours_open(fd), (int fd), next(fd))
CHANGES(fdatasync, is_ours_open(fd), (int fd), next(fd))
CHANGES(ftruncate, is_ours_open(fd), (int fd, off_t size), next(fd, size))
CHANGES(ftruncate64, is_ours_open(fd), (int fd, off64_t size), next(fd, size))
CHANGES(rename, is_ours(to), (const char *from, const char *to), next(from, to))
CHANGES(link, is_ours(to), (const char *from, const char *to), next(from, to))
CHANGES(unlink, is_ours(path), (const char *path), next(path))
CHANGES(mkdir, is_ours(path), (const char *path, mode_t mode), next(path, mode))

#define OPENS(name)                                                            \
    int name(const char *path, int flags, ...) {                               \
        NEXT(name);                                                            \
        va_list rest;                                                          \
        va_start(rest, flags);                                                 \
        unsigned mode = flags & O_CREAT ? va_arg(rest, unsigned) : 0;          \
        va_end(rest);                                                          \
        int changes = (flags & O_ACCMODE) != O_RDONLY;                         \
        if (changes && is_ours(path) && fails(0) && what != SHORT) return refused(); \
        return next(path, flags, mode);                                        \
    }

OPENS(open)
OPENS(open64)
