#include "vocabulary.h"

namespace asr {

namespace {

const char *const UNDERLINE = "\xe2\x96\x81"; /* a space in pieces of sentencepiece */
const char *const UNKNOWN = " \xe2\x81\x87 "; /* its text of the piece <unk> */
enum { MOST_TOKENS = 1 << 24 };

}  // namespace

Vocabulary::Vocabulary(Loader &loader) {
    const std::string kind = loader.text("tokens.type");
    if (kind == "char")
        kind_ = CHARACTERS;
    else if (kind == "bpe")
        kind_ = PIECES;
    else if (kind != "word")
        loader.refuse("has tokens of another type; allowed: bpe, char, word");
    if (kind_ == CHARACTERS && loader.has("tokens.space"))
        space_ = loader.text("tokens.space");
    for (const Text &token : loader.texts("tokens.list")) tokens_.push_back(token.copy());
    if (loader.ok() && (tokens_.size() < 2 || tokens_.size() > MOST_TOKENS))
        loader.refuse("has %zu tokens; allowed: 2 or more", tokens_.size());
}

std::string Vocabulary::text(const std::vector<int32_t> &labels) const {
    std::string text;
    for (size_t i = 0; i < labels.size(); ++i) {
        const std::string &token = tokens_[(size_t)labels[i]];
        if (kind_ == WORDS) {
            if (i > 0) text += ' ';
            text += token;
        } else if (kind_ == CHARACTERS) {
            text += !space_.empty() && token == space_ ? " " : token;
        } else if (token == "<unk>") {
            text += UNKNOWN;
        } else {
            /* The space before the first word is left out. */
            size_t from = text.empty() && token.compare(0, 3, UNDERLINE) == 0 ? 3 : 0;
            size_t found;
            while ((found = token.find(UNDERLINE, from)) != std::string::npos) {
                text.append(token, from, found - from);
                text += ' ';
                from = found + 3;
            }
            text.append(token, from, std::string::npos);
        }
    }
    return text;
}

}  // namespace asr
