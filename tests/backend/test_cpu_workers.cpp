// The CPU backend on several threads: the bits of one thread in every result, whoever has the threads, and scratch as announced.
// Documents of many tiles and of few keys, shared kv heads, features, parts that arrive one by one.
// optimised: long products
#include <doctest/doctest.h>

#include <chrono>
#include <mutex>
#include <thread>

#include <sp/cpu.hpp>
#include <sp/reference.hpp>
#include <sp/workers.hpp>

#include "backend/by_parts.hpp"

namespace test_cpu_workers {
namespace {

using namespace backend_tests;

/// A new thread for every call: all tasks of one parallel() that may run at the same time do.
struct one_thread_each {
  int count;
  int threads() const { return count; }
  template <class Call>
  void parallel(index_t n, Call call) {
    std::vector<std::thread> all;
    for (index_t i = 0; i < n; ++i) all.emplace_back([=] { call(i); });
    for (std::thread& t : all) t.join();
  }
};

template <class T, class Cpu>
void check(Cpu const& cpu, setting const& set) {
  scene<T> const s(set);
  auto const one = s.run(cpu, s.whole());
  for (int threads : {1, 2, 3, 5}) {
    CAPTURE(threads);
    CHECK(s.run(sp::on_queue{sp::workers{threads}, cpu}, s.whole()) == one);
  }
  sp::on_queue const shared{sp::workers{3}, cpu};
  CHECK(s.run(shared, s.cut_by(sp::striped{}, 2)) == one); // dq, then dk and dv
  auto const in_parts = s.cut_by(sp::zigzag{}, 2, true);   // sums go on where the part before ended
  CHECK(s.run(shared, in_parts) == s.run(cpu, in_parts));
}

setting documents_and_groups() {
  setting s{.docs = sp::packed{0, 7, 7, 8, 120, 420}, .q_heads = 3, .kv_heads = 1, .dim = 8, .value_dim = 5};
  s.head_parts = 2;
  return s;
}

} // namespace

TEST_CASE("cpu workers: the bits of one thread, and the numbers of the oracle [tsan]") {
#ifndef SP_TEST_SANITIZED
  check<double>(sp::cpu{}, documents_and_groups());
  setting windowed = documents_and_groups();
  windowed.rule = sp::window(150, 20);
  check<sp::bf16>(sp::cpu{}, windowed);
  std::vector<float> const slopes{0.5f, 0.25f, 0.125f};
  check<float>(sp::cpu{sp::softcap{2}, sp::alibi{slopes}, sp::dropout{0.1}}, documents_and_groups());
#endif
  setting s = documents_and_groups();
  s.docs = sp::packed{0, 40, 300};
  s.q_heads = 2;
  check<float>(sp::cpu{}, s);
  scene<double> const exact(s);
  CHECK(worst(exact.against(exact.run(sp::on_queue{sp::workers{3}, sp::cpu{}}, exact.whole()), exact.expected())) < 1e-12);
}

TEST_CASE("cpu workers: a key tile that is done at once adds to dq when its turn comes [tsan]") {
  // the last key tile holds two keys: whoever has it is ahead of those who have the tiles before
  setting s{.docs = sp::packed{0, 480}, .rule = sp::full(), .q_heads = 2, .kv_heads = 1, .dim = 8, .value_dim = 8};
  s.key_docs = sp::packed{0, 386};
  scene<float> const x(s);
  auto const one = x.run(sp::cpu{}, x.whole());
  one_thread_each pool{4};
  for (int again = 0; again < 3; ++again) CHECK(x.run(sp::on_queue{sp::workers_ref{pool}, sp::cpu{}}, x.whole()) == one);
}

TEST_CASE("cpu workers: whoever is quick, key tiles add in ascending order, and all of them [tsan]") {
  constexpr std::size_t key_tiles = 12, second_document = 5, query_tiles = 12; // more than a thread keeps
  sp::pool memory;
  sp::detail::turns order(memory, key_tiles);
  for (std::size_t slow : {0, 2, 6}) {
    CAPTURE(slow);
    order.begin();
    std::mutex mutex;
    std::vector<std::vector<std::size_t>> added(2 * query_tiles); // by query tile: those of the second document come last
    std::atomic<std::size_t> next{0};
    one_thread_each{3}.parallel(3, [&](index_t) {
      std::vector<std::size_t> tile_of_buffer(sp::detail::kept_sums);
      auto add = [&](std::size_t query_tile, std::size_t key_tile) {
        std::lock_guard lock(mutex);
        added[query_tile].push_back(key_tile);
      };
      sp::detail::in_turn sums(order, sp::detail::kept_sums,
                               [&](std::size_t query_tile, int buffer) { add(query_tile, tile_of_buffer[std::size_t(buffer)]); });
      for (std::size_t t; (t = next++) < key_tiles;) {
        std::size_t const first = t < second_document ? 0 : query_tiles;
        sums.begin(t < second_document ? 0 : second_document, t);
        for (std::size_t i = first + t % 3; i < first + query_tiles; ++i) {
          sums.reached(i);
          if (t == slow) std::this_thread::sleep_for(std::chrono::microseconds(300));
          if (i % 5 == t % 5) continue; // a pair that does not see each other
          tile_of_buffer[std::size_t(sums.buffer())] = t;
          sums.give(i, [&] { add(i, t); });
        }
        sums.end();
      }
      sums.finish();
    });
    for (std::size_t i = 0; i < added.size(); ++i) {
      std::vector<std::size_t> expected;
      for (std::size_t t = i < query_tiles ? 0 : second_document; t < (i < query_tiles ? second_document : key_tiles); ++t)
        if (i % query_tiles >= t % 3 && i % 5 != t % 5) expected.push_back(t);
      CHECK(added[i] == expected);
    }
  }
}

TEST_CASE("cpu workers: an error of the kernel leaves all threads, and says what one thread says [tsan]") {
  setting s{.docs = sp::packed{0, 500}, .q_heads = 4, .kv_heads = 2};
  std::vector<float> const slopes{0.5f, 0.25f, 0.125f};
  sp::cpu const cpu{sp::alibi{slopes}};
  scene<float> const x(s);
  auto text_of = [&](auto const& backend) {
    try {
      x.run(backend, x.whole());
    } catch (sp::error const& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  sp::workers const threads{3};
  std::string const text = text_of(sp::on_queue{threads, cpu});
  CHECK(text.find("q head 3 has no slope") != std::string::npos);
  CHECK(text == text_of(cpu));
  scene<float> const small({.docs = sp::packed{0, 300}});
  CHECK(small.run(sp::on_queue{threads, sp::cpu{}}, small.whole()) == small.run(sp::cpu{}, small.whole()));
}

TEST_CASE("cpu workers: what on_queue is") {
  sp::workers const two{2};
  using shared = sp::on_queue<sp::workers, sp::cpu<sp::softcap>>;
  static_assert(sp::attention_backend<shared, float> && sp::attention_backend<shared, sp::bf16>);
  static_assert(sp::detail::equal_by_value<shared>); // layers share prepared geometry
  static_assert(sp::takes_queue<sp::cpu<>, float, sp::workers> &&
                sp::takes_queue<sp::cpu<>, double, sp::workers_ref<one_thread_each>>);
  static_assert(sp::takes_queue<sp::reference<>, float, sp::workers> &&
                !sp::takes_queue<sp::basic_reference<sp::device_memory>, float, sp::workers>);
  static_assert(!sp::takes_queue<sp::cpu<>, float, int>);
  sp::on_queue const x{two, sp::cpu{sp::softcap{30}}};
  CHECK(x.features() == sp::cpu{sp::softcap{30}}.features());
  CHECK(x.features() != sp::cpu{sp::softcap{31}}.features());
}

} // namespace test_cpu_workers
