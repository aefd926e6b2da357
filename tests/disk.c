/* Loaded before the C library (LD_PRELOAD): lets the n-th change of what lies in one folder fail, as a disk does. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX], first[64];
static size_t length;
static long number;
static int code, again;
static atomic_long calls;

/* Begin to count; the n-th change fails with an error of the system, and every later one if it is for good. */
void disk_fails(const char *in, long n, int error, int for_good) {
    length = strlen(in);
    memcpy(folder, in, length + 1);
    number = n, code = error, again = for_good;
    atomic_store(&calls, 0);
}

/* Return how many changes there were, and copy the name of the one that failed first. */
long disk_changes(char *name) {
    strcpy(name, first);
    return atomic_load(&calls);
}

static int fails(const char *name) {
    long now = atomic_fetch_add(&calls, 1) + 1;
    if (now == number) strcpy(first, name);
    if (now != number && !(again && now > number)) return 0;
    errno = code;
    return 1;
}

/* A full disk, which fails for good, still lets files go. */
static int undoing_fails(const char *name) { return again ? 0 : fails(name); }

static int below(const char *path) { return length && !strncmp(path, folder, length) && path[length] == '/'; }

static int file_below(int file, int writable) {
    char link[64], path[PATH_MAX];
    if (!length || file <= 2) return 0;
    if (writable && (fcntl(file, F_GETFL) & O_ACCMODE) == O_RDONLY) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return below(path) || (!writable && !strcmp(path, folder));
}

static int path_below(int at, const char *path) {
    char link[64], whole[2 * PATH_MAX];
    if (!length || !path) return 0;
    if (*path == '/') return below(path);
    if (at == AT_FDCWD) strcpy(link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", at);
    ssize_t n = readlink(link, whole, PATH_MAX - 1);
    if (n < 0) return 0;
    snprintf(whole + n, PATH_MAX, "/%s", path);
    return below(whole);
}

#define REAL(result, name, ...)                                            \
    static result (*real)(__VA_ARGS__);                                    \
    if (!real) real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

/* Half of what a write has been given is on the disk when it fails. */
ssize_t write(int file, const void *from, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    if (file_below(file, 1) && fails("write")) {
        int error = errno;
        if (size > 1) real(file, from, size / 2);
        errno = error;
        return -1;
    }
    return real(file, from, size);
}

ssize_t pwrite(int file, const void *from, size_t size, off_t at) {
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    return file_below(file, 1) && fails("pwrite") ? -1 : real(file, from, size, at);
}
ssize_t pwrite64(int file, const void *from, size_t size, off_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off_t);
    return file_below(file, 1) && fails("pwrite") ? -1 : real(file, from, size, at);
}
ssize_t writev(int file, const struct iovec *from, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    return file_below(file, 1) && fails("writev") ? -1 : real(file, from, count);
}
int fsync(int file) {
    /* Nothing is flushed: what a killed or failing process has given to the system is there. */
    return file_below(file, 0) && fails("fsync") ? -1 : 0;
}
int fdatasync(int file) { return file_below(file, 0) && fails("fsync") ? -1 : 0; }
int ftruncate(int file, off_t size) {
    REAL(int, "ftruncate", int, off_t);
    return file_below(file, 1) && undoing_fails("ftruncate") ? -1 : real(file, size);
}
int ftruncate64(int file, off_t size) {
    REAL(int, "ftruncate64", int, off_t);
    return file_below(file, 1) && undoing_fails("ftruncate") ? -1 : real(file, size);
}
int close(int file) {
    REAL(int, "close", int);
    if (file_below(file, 1) && fails("close")) {
        int error = errno;
        real(file);
        errno = error;
        return -1;
    }
    return real(file);
}
static int opening_fails(int at, const char *path, int flags) {
    return (flags & O_CREAT) && path_below(at, path) && fails("open");
}
#define OPENS(name)                                                        \
    int name(const char *path, int flags, ...) {                           \
        REAL(int, #name, const char *, int, ...);                          \
        va_list more;                                                      \
        va_start(more, flags);                                             \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more);                                                      \
        return opening_fails(AT_FDCWD, path, flags) ? -1 : real(path, flags, mode); \
    }
OPENS(open)
OPENS(open64)
#define OPENS_AT(name)                                                     \
    int name(int at, const char *path, int flags, ...) {                   \
        REAL(int, #name, int, const char *, int, ...);                     \
        va_list more;                                                      \
        va_start(more, flags);                                             \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more);                                                      \
        return opening_fails(at, path, flags) ? -1 : real(at, path, flags, mode); \
    }
OPENS_AT(openat)
OPENS_AT(openat64)
int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    return path_below(AT_FDCWD, to) && fails("rename") ? -1 : real(from, to);
}
int renameat(int a, const char *from, int b, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    return path_below(b, to) && fails("rename") ? -1 : real(a, from, b, to);
}
int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    return path_below(AT_FDCWD, path) && fails("mkdir") ? -1 : real(path, mode);
}
int mkdirat(int at, const char *path, mode_t mode) {
    REAL(int, "mkdirat", int, const char *, mode_t);
    return path_below(at, path) && fails("mkdir") ? -1 : real(at, path, mode);
}
int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    return path_below(AT_FDCWD, path) && undoing_fails("unlink") ? -1 : real(path);
}
int unlinkat(int at, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    return path_below(at, path) && undoing_fails("unlink") ? -1 : real(at, path, flags);
}
int rmdir(const char *path) {
    REAL(int, "rmdir", const char *);
    return path_below(AT_FDCWD, path) && undoing_fails("rmdir") ? -1 : real(path);
}
int chmod(const char *path, mode_t mode) {
    REAL(int, "chmod", const char *, mode_t);
    return path_below(AT_FDCWD, path) && undoing_fails("chmod") ? -1 : real(path, mode);
}
int fchmodat(int at, const char *path, mode_t mode, int flags) {
    REAL(int, "fchmodat", int, const char *, mode_t, int);
    return path_below(at, path) && undoing_fails("chmod") ? -1 : real(at, path, mode, flags);
}
