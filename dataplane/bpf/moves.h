/* Moving an established connection to another server (docs/protocol.md, "Moving an established connection"),
 * in mode Close. The server asks (step 1, wharf_ask). At a quiet moment the client's end says FIN for its
 * stack, which knows nothing of it: the server's application reads the end of the stream and closes, and then
 * the client's does. No byte is lost, as none was under way; what the client writes from then on is held
 * back.
 *
 * Until the stack has said FIN itself it is one number behind the server (CLOSING). The number of that FIN is
 * the first that the stack has not had acknowledged, so nothing more need be remembered. */
#ifndef WHARFINGER_MOVES_H
#define WHARFINGER_MOVES_H

#include "ends.h"
#include "parse.h"

#define MADE_WINDOW 1 /* in segments by which nobody sends data */

/* Step 1: a server asks its client to move. */
INLINE bool is_step_1(const struct packet *p)
{
	const u8 flags = OPTION_REDIRECT | OPTION_PORT;

	return (p->option.flags & flags) == flags && !p->payload &&
	       (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_FIN | TCP_RST)) == TCP_ACK;
}

/* Whether the packet has timestamps, as Linux and we write them: before all other options. */
INLINE bool has_timestamps(const struct work *w)
{
	const struct packet *p = &w->packet;

	return p->tcp_len >= TCP_LEN + TIMESTAMPS_ALIGNED &&
	       u32_at(&w->headers, p->l4 + TCP_LEN) == TIMESTAMPS_ONLY;
}

/* The window that the packet offers, not scaled. */
INLINE u16 window_of(const struct work *w) { return u16_at(&w->headers, w->packet.l4 + TCP_WINDOW); }

/* A value of the packet's timestamps. */
INLINE u32 timestamp_of(const struct work *w, u32 field)
{
	return u32_at(&w->headers, w->packet.l4 + TCP_LEN + field);
}

/* Where a client that is CLOSING is, in life.tries: ASKING may be taken back, so nothing is said or
 * translated by it, and what the stack writes is held back for that moment; the FIN is SAID; the server has
 * TAKEN it. */
enum closing { ASKING = 0, SAID, TAKEN };

#define REST_NS 500000000ULL /* for so long a stack at rest has sent nothing, to an eighth of a second */

/* Whether all that the client wrote has reached the server, and it is not the server's turn: it has said
 * something since the client's latest data, or the client has sent none. */
INLINE bool is_quiet(const struct rest *r, const struct flow *f)
{
	const struct numbers *n = &r->numbers;
	bool known = f->life.marks & CLOSING || f->life.tries == FOLLOWED;
	bool answered = known && n->expects != f->request_ack;

	return n->unacknowledged == n->next && n->next == r->written &&
	       (answered || n->next == f->life.isn + 1);
}

/* Whether who asks knows the numbers of the client's socket. */
INLINE bool knows_numbers(const struct work *w, const struct rest *r)
{
	const struct packet *p = &w->packet;

	return p->seq == r->numbers.expects && p->ack == r->numbers.unacknowledged &&
	       r->timestamps == has_timestamps(w);
}

INLINE bool swap_closing(union life *life, u32 isn, u8 marks, u8 tries)
{
	union life was = { .whole = life->whole }, is = was;

	is.marks = (u8)((was.marks & ~CLOSING) | marks);
	is.tries = tries;
	return was.isn == isn && swap_if_same(&life->whole, was.whole, is.whole);
}

/* Makes connection `isn` CLOSING in this phase. Returns: whether it is so; else another packet changed its
 * life just now, or asked first. */
INLINE bool mark_closing(union life *life, u32 isn, enum closing phase)
{
	return !(phase == ASKING && life->marks & CLOSING) && swap_closing(life, isn, CLOSING, phase);
}

/* As long as other packets change its life: no more than a few do. */
INLINE void set_closing(union life *life, u32 isn, u8 marks, u8 tries)
{
	if (!swap_closing(life, isn, marks, tries) && !swap_closing(life, isn, marks, tries) &&
	    !swap_closing(life, isn, marks, tries))
		swap_closing(life, isn, marks, tries);
}

INLINE void unmark_closing(union life *life, u32 isn) { set_closing(life, isn, 0, FOLLOWED); }

/* The packet is acknowledged, in place of a stack that does not know of it or is gone. */
INLINE void acknowledge(struct work *w)
{
	const struct packet *p = &w->packet;
	u32 taken = p->payload + (p->tcp_flags & TCP_FIN ? 1 : 0);

	answer_with(w, &(struct segment){ .seq = p->ack,
					  .ack = p->seq + taken,
					  .window = MADE_WINDOW,
					  .flags = TCP_ACK,
					  .timestamps = has_timestamps(w),
					  .value = timestamp_of(w, TIMESTAMPS_ECHO),
					  .echo = timestamp_of(w, TIMESTAMPS_VALUE) });
}

/* The FIN that the client's end says for its stack: nothing before the number `fin` is under way. */
INLINE struct segment closing_fin(struct work *w, u32 fin, u32 expects, u16 window, u32 value, u32 echo)
{
	return (struct segment){ .seq = fin,
				 .ack = expects,
				 .window = window,
				 .flags = TCP_FIN | TCP_ACK,
				 .timestamps = has_timestamps(w),
				 .value = value,
				 .echo = echo };
}

/* The port of a server by which a connection of the client's flow `f` goes on the wire. */
INLINE const struct server_port *port_in_use(struct work *w, const struct flow *f)
{
	const struct packet *p = &w->packet;
	const struct server_port *port = server_port_of(w, &p->src, p->sport, 0);

	return port ? port : server_port_of(w, &p->src, p->sport, f->scope);
}

/* Makes the client of flow `f` CLOSING, if it is at rest. What its application writes meanwhile, on another
 * processor, is either seen here, after the mark, or held back there. Returns: whether it is. */
INLINE bool begins_closing(frame *fr, struct work *w, struct flow *f, struct wire *wire, struct rest *rest)
{
	u32 isn = f->life.isn;

	if (!is_quiet(rest, f) || !mark_closing(&f->life, isn, ASKING))
		return false;
	if (ask_rest(fr, w, &w->key, rest) && knows_numbers(w, rest) && is_quiet(rest, f) &&
	    mark_closing(&wire->life, isn, SAID)) {
		if (mark_closing(&f->life, isn, SAID))
			return true;
		unmark_closing(&wire->life, isn);
	}
	unmark_closing(&f->life, isn);
	return false;
}

/* Step 1 to the client of w->key: the answer is the FIN, once more if it may have been lost. */
ALONE int client_asked(frame *fr)
{
	struct work *w = work_of(fr);
	struct rest rest = {};

	if (!w)
		return REASON_client_busy;
	struct wire *wire = find_wire(w, ESTABLISHED, &w->wire_key);
	struct flow *f = find_flow(w, ESTABLISHED, &w->key);
	if (!wire || !f || f->life.isn != wire->life.isn)
		return REASON_client_busy;
	const struct server_port *port = port_in_use(w, f);
	bool again = f->life.marks & CLOSING;
	if (!port || port->moves != MOVE_CLOSE || f->life.state != CLIENT_ESTABLISHED)
		return REASON_client_stays;
	if (f->life.marks & ENDED || (again && f->life.tries == TAKEN))
		return REASON_client_ends;
	if (!ask_rest(fr, w, &w->key, &rest) || !knows_numbers(w, &rest))
		return REASON_client_busy;
	if (again ? f->life.tries != SAID
		  : stamp_age_ns(f->seen, now_coarse(w)) < REST_NS || !begins_closing(fr, w, f, wire, &rest))
		return REASON_client_busy;
	struct segment fin = closing_fin(w, rest.numbers.unacknowledged, rest.numbers.expects, rest.window,
					 timestamp_of(w, TIMESTAMPS_ECHO), timestamp_of(w, TIMESTAMPS_VALUE));
	answer_with(w, &fin);
	return REASON_client_closes;
}

/* From the server, to the client of w->key that is CLOSING. Once the stack has the server's FIN nothing is
 * left but that FIN again, a RST, or that the server has the client's FIN at last; the stack may be gone. */
ALONE int closing_receives(frame *fr)
{
	struct work *w = work_of(fr);

	if (!w)
		return REASON_client_receives;
	const struct packet *p = &w->packet;
	struct flow *f = find_flow(w, ESTABLISHED, &w->key);
	if (!f)
		f = find_flow(w, CLOSED, &w->key);
	if (!f || !(f->life.marks & CLOSING) || f->life.tries == ASKING)
		return REASON_client_receives;
	bool whole = ask_stack(fr, w, &w->key, &w->numbers) == SOCKET_WHOLE;
	bool taken = whole && p->tcp_flags & TCP_ACK && p->ack == w->numbers.unacknowledged + 1;
	if (taken) {
		w->verdict.ack = w->numbers.unacknowledged;
		set_closing(&f->life, f->life.isn, CLOSING, TAKEN);
	}
	bool ended = f->life.marks & PEER_FIN, resets = p->tcp_flags & TCP_RST;
	if (!ended || (whole && resets && f->life.tries != TAKEN))
		return REASON_client_receives;
	if (resets || !(p->tcp_flags & TCP_FIN))
		return REASON_client_ends;
	acknowledge(w);
	return REASON_client_acknowledges;
}

/* From the stack of a client that is CLOSING, on flow `f`. Its RST without ACK answers a packet, by whose
 * acknowledgement it is numbered. */
INLINE enum reason closing_sends(frame *fr, struct work *w, struct flow *f)
{
	const struct packet *p = &w->packet;
	bool known = ask_stack(fr, w, &w->key, &w->numbers) == SOCKET_WHOLE;
	u32 fin = known ? w->numbers.unacknowledged : p->seq, beyond = p->seq - fin;
	bool writes = p->payload || (p->tcp_flags & TCP_FIN && beyond), taken = f->life.tries == TAKEN;
	bool ended =
		f->life.marks & PEER_FIN && taken; /* both have the other's FIN, but for the stack's own */

	if (f->life.tries == ASKING)
		return p->payload || p->tcp_flags & TCP_FIN ? REASON_client_held_back : REASON_client_sends;
	if (p->tcp_flags & TCP_RST) {
		w->verdict.seq += p->tcp_flags & TCP_ACK && !beyond && taken;
		return REASON_client_sends;
	}
	if (writes && ended) {
		answer_with_reset(w);
		return REASON_client_wrote_late;
	}
	if (writes && !known)
		return REASON_client_held_back;
	if (writes) { /* whatever has become of the server tells the client of it */
		w->verdict.answer =
			closing_fin(w, fin, w->numbers.expects, window_of(w),
				    timestamp_of(w, TIMESTAMPS_VALUE), timestamp_of(w, TIMESTAMPS_ECHO));
		return REASON_client_closes_again;
	}
	if (p->tcp_flags & TCP_FIN && ended) {
		acknowledge(w);
		return REASON_client_acknowledges;
	}
	if (!(p->tcp_flags & TCP_FIN) && beyond < NEAR) /* else to the server the same FIN */
		w->verdict.seq = fin + 1;
	return REASON_client_sends;
}

/* What became of a server's question. */
enum asked { ASKED = 0, ASKED_NOBODY, ASKED_BUSY, ASKED_FAILED };

/* Makes step 1 of a packet that names a connection as the server's own stack does: to be sent as if that
 * stack had sent it. */
INLINE enum asked server_asks(frame *fr, struct work *w, const struct pod *pod)
{
	const struct packet *p = &w->packet;
	struct rest rest = {};

	w->netns = pod->netns;
	set_key(&w->key, pod->ifindex, v4_of(&p->src), p->sport, v4_of(&p->dst), p->dport);
	const struct flow *f = find_flow(w, ESTABLISHED, &w->key);
	if (!f || f->life.state != SERVER_ESTABLISHED || (f->life.marks & (AWARE | ENDED)) != AWARE)
		return ASKED_NOBODY;
	if (!ask_rest(fr, w, &w->key, &rest) || rest.numbers.unacknowledged != rest.numbers.next ||
	    rest.numbers.next != rest.written)
		return ASKED_BUSY;
	w->verdict.answer = (struct segment){ .seq = rest.numbers.next,
					      .ack = rest.numbers.expects,
					      .window = MADE_WINDOW,
					      .flags = TCP_ACK,
					      .timestamps = rest.timestamps,
					      .value = rest.value,
					      .echo = rest.echo };
	w->verdict.append = (struct option){ .flags = OPTION_REDIRECT | OPTION_PORT,
					     .len = OPTION_LEN_BARE,
					     .port = f->redirect_port };
	return ASKED;
}

/* Step 1 as server_asks made it, at the pod's interface: it leaves as what the stack sends. */
INLINE enum reason step_1_leaves(struct work *w)
{
	const struct packet *p = &w->packet;

	set_key(&w->key, w->ifindex, v4_of(&p->src), p->sport, v4_of(&p->dst), p->dport);
	const struct flow *f = find_flow(w, ESTABLISHED, &w->key);
	if (!f || f->life.state != SERVER_ESTABLISHED)
		return REASON_client_ends;
	leave_by(w, f);
	return REASON_server_asks;
}

#endif
