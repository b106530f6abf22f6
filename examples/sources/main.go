// Command sources is a shop that hands its paid orders to Catena and keeps what
// became of them. It shows all that an endpoint needs to be a source: a list of
// what is due, and one place where outcomes arrive.
package main

import (
	"encoding/json"
	"flag"
	"log"
	"net"
	"net/http"
	"sync"
	"time"
)

// ask is a request of a source.
type ask struct {
	Action string `json:"action"`
	Limit  int    `json:"limit"`
	Items  []struct {
		Key     string          `json:"key"`
		Attempt int             `json:"attempt"`
		State   string          `json:"state"`
		Outcome json.RawMessage `json:"outcome"`
	} `json:"items"`
}

// item is one piece of an answer: work to do, or work to be done once more.
type item struct {
	Key     string            `json:"key"`
	Params  map[string]string `json:"params,omitempty"`
	Requeue bool              `json:"requeue,omitempty"`
	After   string            `json:"after,omitempty"`
}

// order is what the shop knows of an order.
type order struct {
	ID       string `json:"id"`
	City     string `json:"city"`
	State    string `json:"state"` // paid, shipped or given up
	Attempts int    `json:"attempts"`
}

const most = 3 // attempts of an order

type shop struct {
	mu     sync.Mutex
	orders []*order
}

// work answers Catena. An order stays in the list until its outcome has arrived:
// a key that is under way is not started a second time.
func (s *shop) work(w http.ResponseWriter, r *http.Request) {
	var asked ask
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	items := []item{}
	switch asked.Action {
	case "iterate":
		for _, o := range s.orders {
			if o.State == "paid" && len(items) < asked.Limit {
				items = append(items, item{Key: o.ID, Params: map[string]string{"order": o.ID, "city": o.City}})
			}
		}
	case "record":
		for _, told := range asked.Items {
			for _, o := range s.orders {
				if o.ID == told.Key && s.record(o, told.Attempt, told.State) {
					items = append(items, item{Key: o.ID, Requeue: true, After: "100ms"})
				}
			}
		}
	}
	answer(w, map[string]any{"items": items})
}

// record notes an outcome, which may arrive twice, and says whether to try again.
func (s *shop) record(o *order, attempt int, state string) (again bool) {
	o.Attempts = attempt
	switch {
	case state == "succeeded":
		o.State = "shipped"
	case attempt < most:
		return true
	default:
		o.State = "given up"
	}
	return false
}

func (s *shop) list(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer(w, s.orders)
}

func answer(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(value); err != nil {
		log.Print(err)
	}
}

func main() {
	address := flag.String("listen", "127.0.0.1:20090", "host:port")
	flag.Parse()
	s := &shop{orders: []*order{{ID: "o-1", City: "Paris", State: "paid"}, {ID: "o-2", City: "Atlantis", State: "paid"}, {ID: "o-3", City: "Oslo", State: "paid"}}}
	http.HandleFunc("POST /work", s.work)
	http.HandleFunc("GET /orders", s.list)
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		log.Fatal(err)
	}
	log.SetFlags(0)
	log.Print("the shop is at http://" + listener.Addr().String() + "/orders")
	server := &http.Server{ReadHeaderTimeout: 5 * time.Second}
	log.Fatal(server.Serve(listener))
}
