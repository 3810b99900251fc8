/* The bytes of a file, mapped into memory where the system can do it. */
#ifndef GQ_ASR_MAPPING_H
#define GQ_ASR_MAPPING_H

#include <stddef.h>
#include <stdint.h>

#include "status.h"

namespace asr {

class Mapping {
  public:
    Mapping() = default;
    Mapping(const Mapping &) = delete;
    Mapping &operator=(const Mapping &) = delete;
    ~Mapping();

    /* Map a file; its pages are read when they are used. */
    void open(const char *path, Status &status);

    /* Take data (size) in place, or copy them where they are not aligned. */
    void take(const void *data, size_t size, Status &status);

    const uint8_t *data() const { return data_; }
    size_t size() const { return size_; }

  private:
    void read(const char *path, Status &status);
    uint8_t *allocate(size_t size, Status &status);

    enum Kind { NONE, MAPPED, ALLOCATED, BORROWED };
    Kind kind_ = NONE;
    const uint8_t *data_ = nullptr;
    size_t size_ = 0;
    void *memory_ = nullptr;
};

}  // namespace asr

#endif
