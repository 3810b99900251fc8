/* Reading WAV files of 16-bit and of float samples. */
#ifndef GQ_ASR_WAV_H
#define GQ_ASR_WAV_H

#include <stdint.h>
#include <stdio.h>

#include <string>
#include <vector>

class Wav {
  public:
    Wav() = default;
    Wav(const Wav &) = delete;
    Wav &operator=(const Wav &) = delete;
    ~Wav();

    /* Read the header. Returns what is wrong, empty if nothing is. */
    std::string open(const char *path);
    /* The same for an open file, which is closed at the end. */
    std::string open(FILE *file);
    /* Read up to n samples of the first channel into `samples`; fewer at the end. */
    void read(int64_t n, std::vector<float> *samples);
    /* Return what was wrong with the samples, empty if nothing was. */
    std::string end() const;

    int64_t rate = 0, channels = 0;

  private:
    std::string format(uint32_t size);

    FILE *file_ = nullptr;
    bool is_float_ = false, to_the_end_ = false;
    uint64_t left_ = 0; /* bytes of samples */
    std::vector<uint8_t> bytes_;
};

#endif
