// libFuzzer target: cu_seqlens, position ids, padding masks, rectangles and lists of documents from a data loader.
// What is accepted gives back the offsets, ids or flags it was made of.
#include "documents.hpp"

namespace fuzz_target {
namespace {

template <class Offset>
void offsets(input& in) {
  index_t const length = in.byte() < 128 ? -1 : in.number();
  std::vector<Offset> list(std::size_t(in.below(40)));
  index_t last = 0;
  bool const ascending = in.byte() < 200;
  for (std::size_t i = 0; i < list.size(); ++i) list[i] = Offset(ascending ? (last += i ? in.byte() % 9 : 0) : in.number());
  sp::documents docs;
  if (!accepted([&] { docs = sp::packed(std::span<Offset const>(list), length); })) return;
  require_documents(docs);
  require(docs.size() + 1 == list.size(), "cu_seqlens: another number of documents");
  for (std::size_t d = 0; d < docs.size(); ++d)
    require(docs[d].begin == index_t(list[d]) && docs[d].end() == index_t(list[d + 1]), "cu_seqlens: a document is elsewhere");
}

/// Three planes of multimodal ids, or text ids before them: rows of text and of images, some with any numbers.
template <class Id>
void multimodal_ids(input& in) {
  index_t const planes = in.byte() % 2 ? 3 : 4, tokens = in.below(40);
  std::vector<Id> ids(std::size_t(planes * tokens));
  for (index_t t = 0; t < tokens; ++t) {
    std::uint8_t const kind = in.byte();
    for (index_t p = 0; p < planes; ++p) {
      Id const before = t ? ids[std::size_t(p * tokens + t - 1)] : Id(0);
      ids[std::size_t(p * tokens + t)] = kind < 40    ? Id(0)
                                         : kind < 160 ? Id(std::uint64_t(before) + 1)
                                         : kind < 170 ? Id(-1)
                                         : kind < 240 ? Id(in.byte() % 8)
                                         : kind < 250 ? std::numeric_limits<Id>::max()
                                                      : Id(in.number());
    }
  }
  sp::documents docs;
  if (!accepted([&] { docs = sp::documents::from_position_ids(std::span<Id const>(ids), planes); })) return;
  require_documents(docs);
  for (sp::document const& d : docs)
    for (index_t p = 0; p < (planes == 3 ? 3 : 1); ++p)
      require(ids[std::size_t(p * tokens + d.begin)] == Id(0), "multimodal ids: a document starts at another id");
}

template <class Id>
void position_ids(input& in) {
  std::vector<Id> ids;
  bool const counting = in.byte() < 200;
  while (!in.empty() && ids.size() < 200) {
    std::uint8_t const b = in.byte();
    ids.push_back(counting && b < 250 ? (b < 40 || ids.empty() ? Id(0) : Id(std::uint64_t(ids.back()) + 1)) : Id(in.number()));
  }
  sp::documents docs;
  if (!accepted([&] { docs = sp::documents::from_position_ids(std::span<Id const>(ids)); })) return;
  require_documents(docs);
  index_t padding = 0;
  for (Id id : ids) padding += std::is_signed_v<Id> && id == Id(-1);
  require(docs.tokens() == index_t(ids.size()) - padding, "position ids: a token belongs to nobody, or padding to a document");
  for (sp::document const& d : docs)
    for (index_t i = 0; i < d.count; ++i) require(index_t(ids[std::size_t(d.begin + i)]) == i, "position ids: another id");
}

void padding_mask(input& in) {
  bool const honest = in.byte() < 220;
  index_t batch = honest ? in.below(12) : in.number(), tokens = honest ? in.below(20) : in.number();
  if (tokens == 0 && batch > 4096) batch = 4096; // a document per row of the batch, also where rows are empty
  std::vector<std::uint8_t> flags(std::size_t(honest ? batch * tokens : in.below(100)));
  for (auto& f : flags) f = in.byte() % 4;
  sp::documents docs;
  if (!accepted([&] { docs = sp::documents::from_padding_mask(std::span<std::uint8_t const>(flags), batch, tokens); })) return;
  require_documents(docs);
  require(index_t(docs.size()) == batch && docs.length() == batch * tokens, "padding mask: another shape");
  std::vector<bool> seen(flags.size());
  for (sp::document const& d : docs)
    for (index_t i = d.begin; i < d.end(); ++i) seen[std::size_t(i)] = true;
  for (std::size_t i = 0; i < flags.size(); ++i) require(seen[i] == (flags[i] != 0), "padding mask: a flag is ignored");
}

void lists(input& in) {
  sp::documents docs, padded;
  index_t const count = in.below(8);
  if (!accepted([&] { docs = any_documents(in, count); })) return;
  require_documents(docs);
  index_t const multiple = in.number();
  if (accepted([&] { padded = docs.padded(multiple); })) {
    require_documents(padded);
    for (std::size_t d = 0; d < docs.size(); ++d)
      require(padded[d].count == docs[d].count && padded[d].room % multiple == 0 && padded[d].room - padded[d].count < multiple,
              "padded: another room");
  }
  std::vector<index_t> const ids = in.numbers(8);
  if (accepted([&] { docs = docs.with_ids(ids); }))
    for (std::size_t d = 0; d < docs.size(); ++d) require(docs[d].id == ids[d], "with_ids: another id");
}

void rectangles(input& in) {
  index_t batch = in.number(), tokens = in.number();
  if (batch > 4096) batch %= 4096; // a document per row is what the caller asks for
  sp::documents docs;
  if (accepted([&] { docs = sp::documents::rectangular(batch, tokens); })) require_documents(docs);
}

} // namespace

static void test_one(std::uint8_t const* data, std::size_t size) {
  input in(data, size);
  switch (in.byte() % 11) {
  case 0:
    offsets<index_t>(in);
    break;
  case 1:
    offsets<std::int32_t>(in);
    break;
  case 2:
    offsets<std::uint32_t>(in);
    break;
  case 3:
    offsets<std::uint64_t>(in);
    break;
  case 4:
    position_ids<index_t>(in);
    break;
  case 5:
    position_ids<std::uint32_t>(in);
    break;
  case 6:
    padding_mask(in);
    break;
  case 7:
    lists(in);
    break;
  case 8:
    multimodal_ids<index_t>(in);
    break;
  case 9:
    multimodal_ids<std::uint32_t>(in);
    break;
  default:
    rectangles(in);
  }
}

} // namespace fuzz_target

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  fuzz_target::test_one(data, size);
  return 0;
}
