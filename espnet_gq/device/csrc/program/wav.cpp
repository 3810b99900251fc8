#include "program/wav.h"

#include <errno.h>
#include <string.h>

namespace {

enum { PCM = 1, FLOAT = 3, EXTENSIBLE = 0xfffe };

uint32_t u16(const uint8_t *from) { return from[0] | (uint32_t)from[1] << 8; }
uint32_t u32(const uint8_t *from) { return u16(from) | u16(from + 2) << 16; }

}  // namespace

Wav::~Wav() {
    if (file_) fclose(file_);
}

std::string Wav::open(const char *path) {
    FILE *file = fopen(path, "rb");
    return file ? open(file) : strerror(errno);
}

std::string Wav::open(FILE *file) {
    file_ = file;
    uint8_t head[12];
    if (fread(head, 1, 12, file_) != 12 || memcmp(head, "RIFF", 4) ||
        memcmp(head + 8, "WAVE", 4))
        return "it is not a WAV file (RIFF)";
    for (;;) {
        uint8_t chunk[8];
        if (fread(chunk, 1, 8, file_) != 8) return "the WAV file has no samples";
        const uint32_t size = u32(chunk + 4);
        if (!memcmp(chunk, "data", 4)) {
            if (!rate) return "the WAV file has samples before their format";
            left_ = size;
            /* Written to a pipe, where the size was not known (SoX: 0x7ffff000). */
            to_the_end_ = size == 0xffffffff || (size >= 0x7ffff000 && size <= 0x7fffffff);
            return "";
        }
        if (!memcmp(chunk, "fmt ", 4)) {
            std::string wrong = format(size);
            if (!wrong.empty()) return wrong;
        } else {
            for (uint64_t i = 0; i < (uint64_t)size + size % 2; ++i)
                if (getc(file_) == EOF) return "the WAV file ends within its header";
        }
    }
}

std::string Wav::format(uint32_t size) {
    uint8_t f[64];
    if (size < 16 || size > sizeof f || fread(f, 1, size, file_) != size)
        return "the WAV file has a broken format";
    uint32_t tag = u16(f), bits = u16(f + 14);
    if (tag == EXTENSIBLE && size >= 40) tag = u16(f + 24);
    channels = u16(f + 2);
    rate = u32(f + 4);
    is_float_ = tag == FLOAT;
    if (!((tag == PCM && bits == 16) || (tag == FLOAT && bits == 32)))
        return "its samples have format " + std::to_string(tag) + " and " +
               std::to_string(bits) + " bits; allowed: 16-bit PCM, 32-bit float";
    if (!rate || !channels || u16(f + 12) != channels * bits / 8)
        return "the WAV file has a broken format";
    return "";
}

void Wav::read(int64_t n, std::vector<float> *samples) {
    const size_t width = (is_float_ ? 4 : 2) * (size_t)channels;
    uint64_t want = (uint64_t)n * width;
    if (!to_the_end_ && want > left_) want = left_ / width * width;
    bytes_.resize((size_t)want);
    size_t got = fread(bytes_.data(), 1, (size_t)want, file_);
    if (!to_the_end_) left_ -= got;
    samples->resize(got / width);
    for (size_t i = 0; i < samples->size(); ++i) {
        const uint8_t *from = bytes_.data() + i * width;
        if (is_float_) {
            const uint32_t bits = u32(from);
            memcpy(&(*samples)[i], &bits, 4);
        } else {
            (*samples)[i] = (float)(int16_t)u16(from) / 32768.0f;
        }
    }
}

std::string Wav::end() const {
    if (ferror(file_)) return "the WAV file cannot be read to its end";
    if (!to_the_end_ && left_ >= (is_float_ ? 4 : 2) * (uint64_t)channels)
        return "the WAV file ends before its last sample";
    return "";
}
