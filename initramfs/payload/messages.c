// SPDX-License-Identifier: GPL-2.0-only
/*
 * Messages between kernels as the reference series exchanges them: one ring for
 * every sender and receiver in an area that all kernels map, see
 * kernels/reference/0010 and 0012. The layout is the series'.
 */
#include "payload.h"

#define SHARED_MAGIC	0x4c4e524b4c554dULL
#define SHARED_VERSION	1
#define NR_SLOTS	16
#define RING_MESSAGES	16

#define ECHO_SUBTYPE	0x80000000	/* as mkmsg: what has it is not answered */
#define FLOOD		0x4002		/* as mkmsg: counted and not printed */
#define PING		0x4003		/* as mkmsg: answered and not printed */
#define NR_TAGS		16
#define FLOOD_HEADER	8

enum { NONE, STARTED, ALIVE, STOPPED, CRASHED };

struct peer {
	u32 id, state, apic_id, halt;
};

struct message {
	u32 type, subtype, seq, len;
	u8 payload[MESSAGE_MAX];
};

struct ring {
	u32 head __attribute__((aligned(64)));
	u32 tail __attribute__((aligned(64)));
	struct message message[RING_MESSAGES];
};

struct shared {
	u64 magic;
	u32 version, nr_slots;
	struct peer peer[NR_SLOTS];
	/* by receiver, then by sender */
	struct ring ring[NR_SLOTS][NR_SLOTS] __attribute__((aligned(4096)));
};

_Static_assert(sizeof(struct ring) == 4096, "a ring is a page");

bool hold;		/* leave what comes in the rings until it is asked for */
bool echo = true;	/* answer every message with itself */

static struct shared *shared;
static u32 self;
static u32 tails[NR_SLOTS];
static struct tally tallies[NR_TAGS];

void messages_init(void)
{
	struct shared *area = (struct shared *)boot_info.shared;
	int slot;

	if (!area)
		return;
	if (!reach((u64)area, sizeof(*area)) || area->magic != SHARED_MAGIC ||
	    area->version != SHARED_VERSION || area->nr_slots != NR_SLOTS ||
	    boot_info.slot >= NR_SLOTS) {
		say("shared area is not as expected\n");
		return;
	}
	self = boot_info.slot;
	for (slot = 0; slot < NR_SLOTS; slot++)
		tails[slot] = READ_ONCE(area->ring[self][slot].tail);
	shared = area;
	__atomic_store_n(&area->peer[self].state, ALIVE, __ATOMIC_SEQ_CST);
}

static int find_slot(u32 kernel)
{
	int slot;

	for (slot = 0; slot < NR_SLOTS; slot++)
		if (READ_ONCE(shared->peer[slot].state) != NONE &&
		    READ_ONCE(shared->peer[slot].id) == kernel)
			return slot;
	return -1;
}

/* Returns what is wrong, or NULL. A slot that is not one's own forges the sender. */
const char *send(int as_slot, u32 kernel, u32 type, u32 subtype, const void *data, u32 size)
{
	struct message *message;
	struct ring *ring;
	struct peer *peer;
	u32 head;
	int slot;

	if (!shared)
		return "there is no area for messages";
	slot = find_slot(kernel);
	if (slot < 0)
		return "there is no such kernel";
	if (as_slot >= NR_SLOTS)
		return "there is no such slot";
	peer = &shared->peer[slot];
	ring = &shared->ring[slot][as_slot < 0 ? self : (u32)as_slot];
	head = READ_ONCE(ring->head);
	if (head - load_acquire(&ring->tail) >= RING_MESSAGES)
		return "the ring is full";

	message = &ring->message[head % RING_MESSAGES];
	message->type = type;
	message->subtype = subtype;
	message->seq = head;
	message->len = size;
	copy(message->payload, data, size);
	store_release(&ring->head, head + 1);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (READ_ONCE(peer->state) == ALIVE)
		send_ipi(READ_ONCE(peer->apic_id), DOORBELL_VECTOR);
	return NULL;
}

static u8 filling(u32 tag, u32 number, u32 at)
{
	return tag * 31 + number + at;
}

/* A message of a flood, as mkmsg_flood.c counts it */
static void count_flood(const struct message *message)
{
	const u32 *header = (const void *)message->payload;
	struct tally *tally = &tallies[header[0] % NR_TAGS];
	bool whole = header[0] < NR_TAGS && message->len >= FLOOD_HEADER && message->len <= MESSAGE_MAX;
	u32 at;

	for (at = FLOOD_HEADER; whole && at < message->len; at++)
		whole = message->payload[at] == filling(header[0], header[1], at);
	tally->count++;
	if (!whole) {
		tally->torn++;
	} else if (header[1] < tally->next) {
		tally->back++;
	} else {
		tally->missing += header[1] - tally->next;
		tally->next = header[1] + 1;
	}
}

const struct tally *tally_of(u32 tag)
{
	return &tallies[tag % NR_TAGS];
}

/* Send numbered messages as fast as they are taken, what comes meanwhile is taken too. */
const char *flood(u32 kernel, u32 count, u32 size, u32 tag, u32 patience)
{
	u8 data[MESSAGE_MAX] __attribute__((aligned(8)));
	u32 *header = (u32 *)data, number, at, waited;
	const char *wrong;

	for (number = 0; number < count; number++) {
		header[0] = tag;
		header[1] = number;
		for (at = FLOOD_HEADER; at < size; at++)
			data[at] = filling(tag, number, at);
		for (waited = 0;; waited++) {
			wrong = send(-1, kernel, FLOOD, 0, data, size);
			if (!wrong)
				break;
			if (waited == patience)
				return wrong;
			if (!hold)
				receive();
			rest();
		}
	}
	return NULL;
}

/*
 * Send messages, each of them with a length that changes all the time until it is
 * taken out: size, too long, size...; returns how many were taken out.
 */
u32 tamper(u32 kernel, u32 type, u32 count, u32 size)
{
	static const u8 data[MESSAGE_MAX];
	struct message *message;
	struct ring *ring;
	u32 head, flips, taken = 0;
	int slot;

	while (shared && count--) {
		slot = find_slot(kernel);
		if (slot < 0)
			break;
		ring = &shared->ring[slot][self];
		head = READ_ONCE(ring->head);
		message = &ring->message[head % RING_MESSAGES];
		if (send(-1, kernel, type, 0, data, size))
			break;
		for (flips = 0; load_acquire(&ring->tail) != head + 1 && flips < TAMPER_FLIPS; flips++) {
			WRITE_ONCE(message->len, flips % 2 ? size : 0xffffffff);
			WRITE_ONCE(message->len, flips % 4 ? size : MESSAGE_MAX + 1);
		}
		taken += load_acquire(&ring->tail) == head + 1;
	}
	return taken;
}

static void take(u32 sender, const struct message *message)
{
	u32 size = message->len > MESSAGE_MAX ? MESSAGE_MAX : message->len;
	const char *wrong;

	if (message->type == FLOOD) {
		count_flood(message);
		return;
	}
	if (message->type == PING) {
		if (!(message->subtype & ECHO_SUBTYPE))
			send(-1, sender, PING, message->subtype | ECHO_SUBTYPE, message->payload, size);
		return;
	}
	say("message");
	field("from", sender);
	field("type", message->type);
	field("subtype", message->subtype);
	field("seq", message->seq);
	field("length", message->len);
	put(" data=");
	put_hex(message->payload, size);
	end_line();
	if (!echo || message->subtype & ECHO_SUBTYPE)
		return;
	wrong = send(-1, sender, message->type, message->subtype | ECHO_SUBTYPE,
		     message->payload, size);
	if (wrong) {
		say("no echo: ");
		put(wrong);
		end_line();
	}
}

/* Take out of the rings what others have put in; returns how many messages. */
u32 receive(void)
{
	struct message message;
	struct ring *ring;
	u32 slot, head, count = 0;

	for (slot = 0; shared && slot < NR_SLOTS; slot++) {
		ring = &shared->ring[self][slot];
		head = load_acquire(&ring->head);
		if (slot == self || head == tails[slot])
			continue;
		if (head - tails[slot] > RING_MESSAGES) {
			say("ring");
			field("from_slot", slot);
			field("tail", tails[slot]);
			field("head", head);
			put(" makes no sense\n");
			tails[slot] = head;
		}
		while (tails[slot] != head) {
			copy(&message, &ring->message[tails[slot] % RING_MESSAGES], sizeof(message));
			store_release(&ring->tail, ++tails[slot]);
			take(READ_ONCE(shared->peer[slot].id), &message);
			count++;
		}
		WRITE_ONCE(ring->tail, tails[slot]);
	}
	return count;
}

bool halt_asked(void)
{
	return shared && READ_ONCE(shared->peer[self].halt);
}

/* Stop for good, and tell the host. */
void park(bool crashed)
{
	say(crashed ? "crash\n" : "stop\n");
	if (shared) {
		WRITE_ONCE(shared->peer[self].state, crashed ? CRASHED : STOPPED);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		send_ipi(READ_ONCE(shared->peer[0].apic_id), DOORBELL_VECTOR);
	}
	hang();
}
