/* How a connection ends: FIN and RST only mark its flow; the marks that end it move it to what is closed.
 *
 * Rules (docs/protocol.md, "State of the ends"):
 * - The pod's own stack is the authority. Its RST counts, but for the one by which a handshake refuses a
 *   stranger's packet, and the one by which it answers a packet for want of a socket; its peer's FIN counts
 *   when the stack acknowledges it.
 * - Anybody can send a FIN or RST. What the wire says is remembered (FIN_SEEN, RESET_SEEN) and counts when
 *   the stack agrees.
 * - A socket that is not found is not gone: nothing ends by that. */
#ifndef WHARFINGER_ENDS_H
#define WHARFINGER_ENDS_H

#include "flows.h"

#define MARK_TRIES 4
#define NEAR (1u << 24) /* more than most windows */

INLINE bool is_over(u8 marks)
{
	return marks & RESET || (marks & (LOCAL_FIN | PEER_FIN)) == (LOCAL_FIN | PEER_FIN);
}

/* Sets and clears bits of enum flow_mark in the flow of connection `isn`. Returns: whether that ended it, to
 * one packet only, however many processors are at it. */
INLINE bool mark(struct flow *f, u32 isn, u8 set, u8 clear)
{
	for (int i = 0; i < MARK_TRIES; i++) {
		union life was = { .whole = f->life.whole }, is = was;

		is.marks = (u8)((was.marks | set) & ~clear);
		if (was.isn != isn || was.state == closed_state(was.state) || is.whole == was.whole)
			return false;
		if (is_over(is.marks))
			is.state = closed_state(was.state);
		if (swap_if_same(&f->life.whole, was.whole, is.whole))
			return is.state != was.state;
	}
	return false;
}

/* What a RST of the pod's own stack says of a flow with these marks. Without ACK it answers a packet, which
 * may be a stranger's: where the socket is none that is found here, that does not say that there is none. */
INLINE u8 own_reset(frame *fr, struct work *w, u8 marks)
{
	enum socket_seen seen = ask_stack(fr, w, &w->key, &w->numbers);

	if (seen == SOCKET_PART)
		return 0;
	return seen == SOCKET_WHOLE || w->packet.tcp_flags & TCP_ACK || marks & LOCAL_FIN ? RESET
											  : RESET_SEEN;
}

/* A packet of the pod's own stack, on flow `f` of w->key: whether it ends the connection. */
INLINE bool own_stack_ends(frame *fr, struct work *w, struct flow *f)
{
	const struct packet *p = &w->packet;
	u8 marks = f->life.marks, set = 0, clear = 0;

	if (!(p->tcp_flags & (TCP_FIN | TCP_RST)) && !(marks & (FIN_SEEN | RESET_SEEN)))
		return false;
	if (!(p->tcp_flags & TCP_RST))
		clear |= RESET_SEEN;
	if (marks & FIN_SEEN && p->tcp_flags & TCP_ACK && p->ack == f->peer_end) {
		set |= PEER_FIN;
		clear |= FIN_SEEN;
	}
	if (p->tcp_flags & TCP_FIN)
		set |= LOCAL_FIN;
	if (p->tcp_flags & TCP_RST)
		set |= own_reset(fr, w, marks);
	return mark(f, f->life.isn, set, clear);
}

/* Of a connection whose stack has sent its FIN, a socket that is not whole is what waits for the peer's:
 * without a process, Linux keeps no more of it. It is over with whatever the peer says then. */
INLINE bool is_left_waiting(enum socket_seen seen, const struct flow *f)
{
	return seen == SOCKET_PART && f->life.marks & LOCAL_FIN;
}

/* Whether the stack takes this RST of its peer's (RFC 5961; Linux takes the number of the peer's FIN as
 * well). */
INLINE bool stack_takes_reset(frame *fr, struct work *w, const struct flow *f)
{
	const struct packet *p = &w->packet;
	enum socket_seen seen = ask_stack(fr, w, &w->key, &w->numbers);

	if (seen == SOCKET_WHOLE)
		return p->seq == w->numbers.expects ||
		       (f->life.marks & PEER_FIN && p->seq + 1 == w->numbers.expects);
	return is_left_waiting(seen, f) || (seen == SOCKET_PART && p->seq == f->life.isn + 1);
}

/* Whether the stack may come to acknowledge this FIN of its peer's, and has not yet: a stranger's is not even
 * remembered. The peer may acknowledge what the stack has sent and not counted yet: it counts after sending,
 * and the two are on different processors. */
INLINE bool stack_awaits_fin(frame *fr, struct work *w, const struct flow *f)
{
	const struct packet *p = &w->packet;
	const struct numbers *n = &w->numbers;

	enum socket_seen seen = ask_stack(fr, w, &w->key, &w->numbers);

	if (seen == SOCKET_PART &&
	    !is_left_waiting(seen, f)) /* the handshake's, which takes step 3 with it */
		return p->seq + p->payload - (f->life.isn + 1) < NEAR && p->ack == f->server_isn + 1 &&
		       !is_client_state(f->life.state);
	if (seen != SOCKET_WHOLE)
		return true;
	return p->seq + p->payload - n->expects < NEAR &&
	       n->next + NEAR - p->ack < n->next - n->unacknowledged + 2 * NEAR;
}

/* A FIN or RST from the wire, on flow `f` of w->key: whether it ends the connection. */
INLINE bool wire_ends(frame *fr, struct work *w, struct flow *f)
{
	const struct packet *p = &w->packet;
	u32 isn = f->life.isn;

	if (p->tcp_flags & TCP_RST)
		return mark(f, isn, stack_takes_reset(fr, w, f) ? RESET : RESET_SEEN, 0);
	if (p->tcp_flags & TCP_FIN && !(f->life.marks & PEER_FIN) && stack_awaits_fin(fr, w, f)) {
		f->peer_end = p->seq + p->payload + 1;
		mark(f, isn, FIN_SEEN, 0);
	}
	return false;
}

#endif
