#include "file/mapping.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#elif !defined(__wasi__)
#define GQ_ASR_MMAP
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace asr {

namespace {

enum { ALIGNMENT = 64 };

void cannot_read(Status &status, const char *path, const char *why) {
    status.fail(GQ_ASR_CANNOT_READ, "%s: %s", path, why);
}

}  // namespace

Mapping::~Mapping() {
#if defined(GQ_ASR_MMAP)
    if (kind_ == MAPPED) munmap(memory_, size_);
#elif defined(_WIN32)
    if (kind_ == MAPPED) UnmapViewOfFile(memory_);
#endif
    if (kind_ == ALLOCATED) free(memory_);
}

void Mapping::open(const char *path, Status &status) {
#if defined(GQ_ASR_MMAP)
    int file = ::open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return cannot_read(status, path, strerror(errno));
    struct stat found;
    if (fstat(file, &found) != 0) {
        cannot_read(status, path, strerror(errno));
    } else if (!S_ISREG(found.st_mode)) {
        cannot_read(status, path, "not a regular file");
    } else if (found.st_size <= 0) {
        status.fail(GQ_ASR_BAD_MODEL, "%s: the file is empty", path);
    } else {
        void *memory =
            mmap(nullptr, (size_t)found.st_size, PROT_READ, MAP_PRIVATE, file, 0);
        if (memory == MAP_FAILED) {
            cannot_read(status, path, strerror(errno));
        } else {
            kind_ = MAPPED;
            memory_ = memory;
            data_ = (const uint8_t *)memory;
            size_ = (size_t)found.st_size;
        }
    }
    ::close(file);
#elif defined(_WIN32)
    wchar_t wide[32768];
    if (!MultiByteToWideChar(CP_UTF8, 0, path, -1, wide, 32768))
        return cannot_read(status, path, "the name is not UTF-8");
    HANDLE file = CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ, nullptr,
                              OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr);
    if (file == INVALID_HANDLE_VALUE)
        return cannot_read(status, path, "the file cannot be opened");
    LARGE_INTEGER size;
    HANDLE mapped = nullptr;
    if (!GetFileSizeEx(file, &size)) {
        cannot_read(status, path, "the file has no size");
    } else if (size.QuadPart <= 0) {
        status.fail(GQ_ASR_BAD_MODEL, "%s: the file is empty", path);
    } else {
        mapped = CreateFileMappingW(file, nullptr, PAGE_READONLY, 0, 0, nullptr);
        if (mapped) memory_ = MapViewOfFile(mapped, FILE_MAP_READ, 0, 0, 0);
        if (!memory_) {
            cannot_read(status, path, "the file cannot be mapped");
        } else {
            kind_ = MAPPED;
            data_ = (const uint8_t *)memory_;
            size_ = (size_t)size.QuadPart;
        }
    }
    if (mapped) CloseHandle(mapped);
    CloseHandle(file);
#else
    read(path, status);
#endif
}

/* Where files cannot be mapped: read the whole of it. */
void Mapping::read(const char *path, Status &status) {
    FILE *file = fopen(path, "rb");
    if (!file) return cannot_read(status, path, strerror(errno));
    long size = fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    if (size < 0 || fseek(file, 0, SEEK_SET) != 0) {
        cannot_read(status, path, "the file has no size");
    } else if (size == 0) {
        status.fail(GQ_ASR_BAD_MODEL, "%s: the file is empty", path);
    } else {
        uint8_t *to = allocate((size_t)size, status);
        if (to && fread(to, 1, (size_t)size, file) != (size_t)size)
            cannot_read(status, path, "the file cannot be read to its end");
    }
    fclose(file);
}

void Mapping::take(const void *data, size_t size, Status &status) {
    if (size == 0) {
        status.fail(GQ_ASR_BAD_MODEL, "the model file in memory is empty");
        return;
    }
    if ((uintptr_t)data % ALIGNMENT == 0) {
        kind_ = BORROWED;
        data_ = (const uint8_t *)data;
        size_ = size;
    } else if (uint8_t *to = allocate(size, status)) {
        memcpy(to, data, size);
    }
}

/* Return aligned memory that data() leads to, nullptr where there is none. */
uint8_t *Mapping::allocate(size_t size, Status &status) {
    /* Not aligned_alloc, which Windows does not have. */
    memory_ = size > SIZE_MAX - ALIGNMENT ? nullptr : malloc(size + ALIGNMENT);
    if (!memory_) {
        status.fail(GQ_ASR_NO_MEMORY, "no memory for the %zu bytes of a model file", size);
        return nullptr;
    }
    uint8_t *aligned = (uint8_t *)memory_;
    aligned += ALIGNMENT - (uintptr_t)aligned % ALIGNMENT;
    kind_ = ALLOCATED;
    data_ = aligned;
    size_ = size;
    return aligned;
}

}  // namespace asr
