/* Fault at the n-th change that a program makes below a folder; see runner.py.
 *
 * Loaded with LD_PRELOAD. It maps the file named by FAULTS_CONTROL or faults_control(),
 * reads the fault from it and counts changes in it, including those of child processes.
 * Every change is appended to the file of the same name + ".trace".
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OFF, TRACE, KILL, TORN, FULL, ONCE };

typedef struct {
    int64_t mode, target;
    _Atomic int64_t count;
    char folder[PATH_MAX]; /* absolute, ends in a slash */
} control_t;

static control_t *control;
static int trace = -1;

void faults_control(const char *path) {
    char name[PATH_MAX + 8];
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) return;
    void *map =
        mmap(NULL, sizeof(control_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (map == MAP_FAILED) return;
    control = map;
    snprintf(name, sizeof name, "%s.trace", path);
    if (trace >= 0) syscall(SYS_close, trace);
    trace = syscall(SYS_openat, AT_FDCWD, name,
                    O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("FAULTS_CONTROL");
    if (path) faults_control(path);
}

static int below(const char *path) {
    size_t n = strlen(control->folder) - 1;
    return strncmp(path, control->folder, n) == 0 && (path[n] == '/' || !path[n]);
}

/* Write the absolute path to out; return whether it is watched. */
static int watched_path(int dir, const char *path, char *out) {
    if (!control || control->mode == OFF || !path) return 0;
    out[0] = 0;
    if (path[0] != '/') {
        char link[64];
        ssize_t n;
        if (dir == AT_FDCWD) {
            if (syscall(SYS_getcwd, out, PATH_MAX) < 0) return 0;
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
            n = readlink(link, out, PATH_MAX - 1);
            if (n < 0) return 0;
            out[n] = 0;
        }
        if (strlen(out) + strlen(path) + 2 > PATH_MAX) return 0;
        strcat(out, "/");
        strcat(out, path);
    } else {
        if (strlen(path) >= PATH_MAX) return 0;
        strcpy(out, path);
    }
    return below(out);
}

static int watched_fd(int fd, char *out) {
    char link[64];
    ssize_t n;
    if (!control || control->mode == OFF) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = readlink(link, out, PATH_MAX - 1);
    if (n < 0) return 0;
    out[n] = 0;
    return below(out);
}

static void die(void) { syscall(SYS_kill, 0, SIGKILL); } /* the whole group */

enum { PASS, FAIL, HALF };

/* Count a change and return its fault. needs: it takes disk space. HALF of a change that
 * is not a write is the whole change, followed by die(). */
static int event(const char *kind, const char *path, int needs) {
    char line[PATH_MAX + 64];
    int64_t n = atomic_fetch_add(&control->count, 1);
    int length = snprintf(line, sizeof line, "%s %s\n", kind, path);
    if (trace >= 0) syscall(SYS_write, trace, line, length);
    switch (control->mode) {
    case KILL:
        if (n == control->target) die();
        break;
    case TORN:
        if (n == control->target) return HALF;
        break;
    case FULL:
        if (n >= control->target && needs) return n == control->target ? HALF : FAIL;
        break;
    case ONCE:
        if (n == control->target) return FAIL;
        break;
    }
    return PASS;
}

static int fault(void) {
    errno = control->mode == ONCE ? EIO : ENOSPC;
    return -1;
}

/* For changes other than writes: a full disk fails, a torn change dies afterwards. */
#define ACT(call)                                      \
    do {                                               \
        if (todo == FAIL) return fault();              \
        if (todo == HALF && control->mode == FULL) return fault(); \
        long result = (call);                          \
        if (todo == HALF) die();                       \
        return result;                                 \
    } while (0)

#define REAL(name) __typeof__(&name) real = dlsym(RTLD_NEXT, #name)

static int creates(int flags) {
    return (flags & O_CREAT) || ((flags & O_TRUNC) && (flags & O_ACCMODE) != O_RDONLY);
}

static int open_common(int dir, const char *path, int flags, mode_t mode) {
    char name[PATH_MAX];
    int todo = PASS;
    if (creates(flags) && watched_path(dir, path, name)) todo = event("open", name, 1);
    ACT(syscall(SYS_openat, dir, path, flags | O_LARGEFILE, mode));
}

#define MODE                                       \
    mode_t mode = 0;                               \
    if (flags & (O_CREAT | O_TMPFILE)) {           \
        va_list list;                              \
        va_start(list, flags);                     \
        mode = va_arg(list, int);                  \
        va_end(list);                              \
    }

int open(const char *path, int flags, ...) {
    MODE return open_common(AT_FDCWD, path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    MODE return open_common(AT_FDCWD, path, flags, mode);
}
int openat(int dir, const char *path, int flags, ...) {
    MODE return open_common(dir, path, flags, mode);
}
int openat64(int dir, const char *path, int flags, ...) {
    MODE return open_common(dir, path, flags, mode);
}
int creat(const char *path, mode_t mode) {
    return open_common(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

static FILE *fopen_common(FILE *(*real)(const char *, const char *), const char *path,
                          const char *mode) {
    char name[PATH_MAX];
    int todo = PASS;
    if (strpbrk(mode, "wa") && watched_path(AT_FDCWD, path, name))
        todo = event("open", name, 1);
    if (todo == FAIL || (todo == HALF && control->mode == FULL)) {
        fault();
        return NULL;
    }
    FILE *file = real(path, mode);
    if (todo == HALF) die();
    return file;
}
FILE *fopen(const char *path, const char *mode) {
    REAL(fopen);
    return fopen_common(real, path, mode);
}
FILE *fopen64(const char *path, const char *mode) {
    REAL(fopen64);
    return fopen_common(real, path, mode);
}

#define WRITE(half, whole)                                             \
    char name[PATH_MAX];                                               \
    int todo = watched_fd(fd, name) ? event("write", name, 1) : PASS;  \
    if (todo == FAIL) return fault();                                  \
    if (todo == HALF) {                                                \
        ssize_t written = (half);                                      \
        if (control->mode == TORN) die();                              \
        return written > 0 ? written : fault();                        \
    }                                                                  \
    return (whole)

ssize_t write(int fd, const void *data, size_t n) {
    WRITE(n > 1 ? syscall(SYS_write, fd, data, n / 2) : 0,
          syscall(SYS_write, fd, data, n));
}
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
    WRITE(n > 1 ? syscall(SYS_pwrite64, fd, data, n / 2, at) : 0,
          syscall(SYS_pwrite64, fd, data, n, at));
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    return pwrite64(fd, data, n, at);
}
ssize_t writev(int fd, const struct iovec *parts, int n) {
    WRITE(n > 1 ? syscall(SYS_writev, fd, parts, n / 2) : 0,
          syscall(SYS_writev, fd, parts, n));
}

#define ON_FD(kind, needs, call)                                          \
    char name[PATH_MAX];                                                  \
    int todo = watched_fd(fd, name) ? event(kind, name, needs) : PASS;    \
    ACT(call)
#define ON_PATH(kind, needs, dir, path, call)                                      \
    char name[PATH_MAX];                                                           \
    int todo = watched_path(dir, path, name) ? event(kind, name, needs) : PASS;    \
    ACT(call)

int fsync(int fd) { ON_FD("sync", 1, syscall(SYS_fsync, fd)); }
int fdatasync(int fd) { ON_FD("sync", 1, syscall(SYS_fdatasync, fd)); }
int ftruncate(int fd, off_t n) { ON_FD("truncate", 0, syscall(SYS_ftruncate, fd, n)); }
int ftruncate64(int fd, off64_t n) {
    ON_FD("truncate", 0, syscall(SYS_ftruncate, fd, n));
}
int rename(const char *from, const char *to) {
    ON_PATH("rename", 0, AT_FDCWD, to,
            syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}
int renameat(int a, const char *from, int b, const char *to) {
    ON_PATH("rename", 0, b, to, syscall(SYS_renameat2, a, from, b, to, 0));
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    ON_PATH("rename", 0, b, to, syscall(SYS_renameat2, a, from, b, to, flags));
}
int unlink(const char *path) {
    ON_PATH("unlink", 0, AT_FDCWD, path, syscall(SYS_unlinkat, AT_FDCWD, path, 0));
}
int unlinkat(int dir, const char *path, int flags) {
    ON_PATH("unlink", 0, dir, path, syscall(SYS_unlinkat, dir, path, flags));
}
int symlink(const char *target, const char *path) {
    ON_PATH("link", 1, AT_FDCWD, path, syscall(SYS_symlinkat, target, AT_FDCWD, path));
}
int symlinkat(const char *target, int dir, const char *path) {
    ON_PATH("link", 1, dir, path, syscall(SYS_symlinkat, target, dir, path));
}
int mkdir(const char *path, mode_t mode) {
    ON_PATH("mkdir", 1, AT_FDCWD, path, syscall(SYS_mkdirat, AT_FDCWD, path, mode));
}
