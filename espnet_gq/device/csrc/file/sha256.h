/* SHA-256 (FIPS 180-4), for a model file's checksum. */
#ifndef GQ_ASR_SHA256_H
#define GQ_ASR_SHA256_H

#include <stddef.h>
#include <stdint.h>

namespace asr {

class Sha256 {
  public:
    void update(const uint8_t *data, size_t size);
    /* The digest as 64 hexadecimal digits; nothing may be added afterwards. */
    void finish(char hex[65]);

  private:
    void block(const uint8_t *data);

    uint32_t state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                          0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    uint64_t size_ = 0;
    uint8_t rest_[64];
};

}  // namespace asr

#endif
