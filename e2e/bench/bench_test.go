package bench

import "testing"

func TestPercentile(t *testing.T) {
	values := []float64{5, 1, 4, 2, 3}
	for p, want := range map[float64]float64{0: 1, 20: 1, 50: 3, 99: 5, 100: 5} {
		if got := Percentile(values, p); got != want {
			t.Errorf("p%v = %v, want %v", p, got, want)
		}
	}
	if s := SpreadOf(values); s != (Spread{3, 1, 5, 5}) {
		t.Errorf("spread %+v", s)
	}
	if s := SpreadOf(nil); s != (Spread{}) {
		t.Errorf("spread of nothing %+v", s)
	}
}
