// Packs documents into training steps and deals them out to data ranks.
// Shuffles come from the seed alone and are written out here: std::shuffle may differ between standard libraries.
#include "data/steps.hpp"

#include <algorithm>

namespace trainer {

reader::reader(corpus const& text, index_t stream, std::uint64_t seed) : text_(&text), stream_(stream), random_(seed) {
  for (std::size_t i = 0; i < text.documents.size(); ++i) order_.push_back(i);
  shuffle();
}

void reader::shuffle() { // Fisher-Yates
  for (std::size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random_() % i]);
}

step_text reader::next() {
  step_text step;
  while (step.size() < stream_) {
    std::string const& document = text_->documents[order_[at_]];
    std::size_t n = std::min(document.size() - used_, std::size_t(stream_ - step.size()));
    for (char c : document.substr(used_, n)) step.tokens.push_back(static_cast<unsigned char>(c));
    step.cu_seqlens.push_back(step.size());
    used_ += n;
    if (used_ < document.size()) break;
    used_ = 0;
    if (++at_ == order_.size()) {
      at_ = 0;
      shuffle();
    }
  }
  return step;
}

step_text beginnings(step_text const& step, index_t documents, index_t tokens) {
  step_text few;
  for (index_t d = 0; d < std::min(documents, step.documents()); ++d) {
    auto const begin = step.tokens.begin() + step.cu_seqlens[std::size_t(d)],
               end = step.tokens.begin() + step.cu_seqlens[std::size_t(d) + 1];
    few.tokens.insert(few.tokens.end(), begin, std::min(end, begin + tokens));
    few.cu_seqlens.push_back(few.size());
  }
  return few;
}

step_text share(step_text const& step, int part, int parts) {
  step_text mine;
  for (index_t d = 0; d < step.documents(); ++d) {
    index_t begin = step.cu_seqlens[std::size_t(d)], end = step.cu_seqlens[std::size_t(d) + 1];
    if ((begin + end) / 2 * parts / std::max<index_t>(step.size(), 1) != part) continue; // where its middle lies
    if (mine.documents() == 0) mine.first = begin;
    mine.tokens.insert(mine.tokens.end(), step.tokens.begin() + begin, step.tokens.begin() + end);
    mine.cu_seqlens.push_back(mine.size());
  }
  return mine;
}

} // namespace trainer
