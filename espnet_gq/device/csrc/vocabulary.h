/* Tokens, and how they become text. */
#ifndef GQ_ASR_VOCABULARY_H
#define GQ_ASR_VOCABULARY_H

#include <stdint.h>

#include <string>
#include <vector>

#include "file/loader.h"

namespace asr {

class Vocabulary {
  public:
    explicit Vocabulary(Loader &loader);

    int64_t size() const { return (int64_t)tokens_.size(); }
    const std::string &token(int64_t number) const { return tokens_[(size_t)number]; }
    std::string text(const std::vector<int32_t> &labels) const;

  private:
    enum Kind { WORDS, CHARACTERS, PIECES };
    Kind kind_ = WORDS;
    std::string space_; /* the token that stands for a space, of characters */
    std::vector<std::string> tokens_;
};

}  // namespace asr

#endif
